/*
 * Loads a BPF object once for each variant, and says of each program how many instructions the verifier walked.
 *
 * usage: load OBJECT DIRECTORY. Each file of DIRECTORY is a variant: the bytes of the object's .rodata, which hold the
 * load-time constants. As the first process of a guest it has no arguments, makes its own /sys and powers off.
 *
 * Prints "loaded VARIANT PROGRAM INSTRUCTIONS", or "refused VARIANT PROGRAM" after what libbpf and the verifier said.
 */
#include <dirent.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#define LOG_ROOM (1 << 24)
#define LAST_LINES 25
#define MOST_ENTRIES 64

static int failures;

/* The verifier explains at length; its last lines say what is wrong. */
static int print_end(enum libbpf_print_level level, const char *format, va_list arguments)
{
	static char text[LOG_ROOM];
	char *start;
	int lines = 0;

	if (level != LIBBPF_WARN)
		return 0;
	vsnprintf(text, sizeof(text), format, arguments);
	for (start = text + strlen(text); start > text && lines <= LAST_LINES; start--)
		lines += start[-1] == '\n';
	printf("%s", start);
	return 0;
}

static void set_constants(struct bpf_object *object, const char *path)
{
	static char value[1 << 16];
	struct bpf_map *map;
	FILE *file = fopen(path, "r");
	size_t size = file ? fread(value, 1, sizeof(value), file) : 0;

	bpf_object__for_each_map(map, object) {
		const char *end = strstr(bpf_map__name(map), ".rodata");

		if (end && !end[7] && bpf_map__set_initial_value(map, value, size))
			printf("%s does not hold the %u bytes of .rodata\n", path, bpf_map__value_size(map));
	}
	if (file)
		fclose(file);
}

/* Only the programs are of interest: with maps of their full size a guest would need much memory. */
static void shrink_maps(struct bpf_object *object)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, object) {
		if (bpf_map__type(map) == BPF_MAP_TYPE_RINGBUF)
			bpf_map__set_max_entries(map, getpagesize());
		else if (bpf_map__max_entries(map) > MOST_ENTRIES)
			bpf_map__set_max_entries(map, MOST_ENTRIES);
	}
}

static void report(const struct bpf_program *program, const char *variant)
{
	struct bpf_prog_info info = {};
	__u32 size = sizeof(info);

	if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size)) {
		printf("refused %s %s\n", variant, bpf_program__name(program));
		failures++;
		return;
	}
	printf("loaded %s %s %u\n", variant, bpf_program__name(program), info.verified_insns);
}

/* Load all programs, or the one of that name. Returns whether the kernel took them. */
static int load(const char *path, const char *constants, const char *variant, const char *only)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_program *program;
	int result;

	if (!object)
		return 0;
	set_constants(object, constants);
	shrink_maps(object);
	bpf_object__for_each_program(program, object)
		bpf_program__set_autoload(program, !only || !strcmp(only, bpf_program__name(program)));
	result = !bpf_object__load(object);
	bpf_object__for_each_program(program, object)
		if (result && bpf_program__autoload(program))
			report(program, variant);
	bpf_object__close(object);
	return result;
}

static void load_one_by_one(const char *path, const char *constants, const char *variant)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_program *program;

	if (!object) {
		printf("refused %s *\n", variant);
		failures++;
		return;
	}
	bpf_object__for_each_program(program, object) {
		if (load(path, constants, variant, bpf_program__name(program)))
			continue;
		printf("refused %s %s\n", variant, bpf_program__name(program));
		failures++;
	}
	bpf_object__close(object);
}

static void load_variants(const char *object, const char *directory)
{
	struct dirent **found;
	char path[4096];
	int count = scandir(directory, &found, NULL, alphasort);

	for (int number = 0; number < count; number++) {
		const char *variant = found[number]->d_name;

		if (variant[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", directory, variant);
		libbpf_set_print(NULL);
		if (load(object, path, variant, NULL))
			continue;
		libbpf_set_print(print_end);
		load_one_by_one(object, path, variant);
	}
}

int main(int count, char **words)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (getpid() == 1) {
		mount("sys", "/sys", "sysfs", 0, "");
		load_variants("/object", "/variants");
		printf("end %d\n", failures);
		reboot(RB_POWER_OFF);
	}
	if (count != 3)
		return 2;
	load_variants(words[1], words[2]);
	printf("end %d\n", failures);
	return failures != 0;
}
