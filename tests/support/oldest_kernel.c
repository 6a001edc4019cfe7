/* The first process of a machine that only loads the programs of /object, one by one, and says what came of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bpf/libbpf.h>

#define MOST_ENTRIES 4096 /* the machine is small */

static char verifier_log[1 << 20];

static void load_only(const char *name)
{
	struct bpf_object *object = bpf_object__open_file("/object", NULL);
	struct bpf_program *program;
	struct bpf_map *map;
	size_t length;
	int result;

	bpf_object__for_each_map(map, object)
		if (bpf_map__type(map) != BPF_MAP_TYPE_RINGBUF && bpf_map__max_entries(map) > MOST_ENTRIES)
			bpf_map__set_max_entries(map, MOST_ENTRIES);
	bpf_object__for_each_program(program, object) {
		bpf_program__set_autoload(program, !strcmp(bpf_program__name(program), name));
		bpf_program__set_log_level(program, 4);
		bpf_program__set_log_buf(program, verifier_log, sizeof(verifier_log));
	}
	memset(verifier_log, 0, sizeof(verifier_log));
	result = bpf_object__load(object);
	length = strlen(verifier_log);
	printf("LOADED %s %d %s\n", name, result, verifier_log + (length > 600 ? length - 600 : 0));
	bpf_object__close(object);
}

int main(void)
{
	struct bpf_object *object = bpf_object__open_file("/object", NULL);
	struct bpf_program *program;

	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL); /* with the kernel's own types */
	bpf_object__for_each_program(program, object)
		load_only(bpf_program__name(program));
	fflush(stdout);
	return reboot(RB_POWER_OFF);
}
