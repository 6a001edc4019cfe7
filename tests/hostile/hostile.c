/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hostile image would try, one attack for each word. Prints a line for each thing tried: its name and `done` or
 * the error's name. Without a word it serves: it writes to its log once the file /tmp/flood is there.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MIB (1UL << 20)

static void tell(const char *what, long result)
{
	printf("%s %s\n", what, result < 0 ? strerrorname_np(errno) : "done");
	fflush(stdout);
}

static void identity(void)
{
	printf("euid %d\nno_new_privs %d\n", geteuid(), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static void devices(void)
{
	static const char *const there[] = {
		"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/kvm", "/dev/fuse",
		"/dev/net/tun", "/dev/loop-control",
	};

	for (size_t i = 0; i < COUNT(there); i++)
		tell(there[i], open(there[i], O_RDWR));
	/* A node that could be made must not open either. */
	if (mknod("/tmp/memory", S_IFCHR | 0666, makedev(1, 1)))
		tell("mknod", -1);
	else
		tell("mknod-open", open("/tmp/memory", O_RDWR));
}

static void pokes(void)
{
	static const char *const written[] = {
		"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory",
		"/proc/sys/kernel/hostname", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/irq/0/smp_affinity",
		"/sys/power/state", "/sys/fs/cgroup/cgroup.procs", "/proc/acpi/wakeup",
	};
	static const char *const readable[] = { "/proc/kcore", "/proc/kmsg", "/sys/firmware/dmi/tables/DMI" };
	char byte;

	for (size_t i = 0; i < COUNT(written); i++) {
		int fd = open(written[i], O_WRONLY);

		tell(written[i], fd < 0 ? fd : write(fd, "1", 1));
	}
	for (size_t i = 0; i < COUNT(readable); i++) {
		int fd = open(readable[i], O_RDONLY);

		/* Nothing to read is as good as an error. */
		tell(readable[i], fd < 0 ? fd : read(fd, &byte, 1) == 1 ? 0 : (errno = ENODATA, -1));
	}
}

static void calls(void)
{
	union bpf_attr attributes = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
	struct timeval now;

	gettimeofday(&now, NULL);
	tell("mount", mount("none", "/tmp", "tmpfs", 0, NULL));
	tell("unshare-user", unshare(CLONE_NEWUSER));
	tell("unshare-net", unshare(CLONE_NEWNET));
	tell("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes)));
	tell("init_module", syscall(SYS_init_module, "x", 1, ""));
	tell("kexec", syscall(SYS_kexec_load, 0, 0, NULL, 0));
	/* What would change nothing if it were let through: Ctrl-Alt-Del as it is, and the time that it is. */
	tell("reboot", syscall(SYS_reboot, 0xfee1dead, 672274793, 0, NULL));
	tell("open_by_handle", syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, O_RDONLY));
	tell("settimeofday", settimeofday(&now, NULL));
	tell("swapon", syscall(SYS_swapon, "/tmp/none", 0));
	tell("pivot_root", syscall(SYS_pivot_root, "/", "/tmp"));
	tell("keyctl", syscall(SYS_keyctl, 0, -3, 0));
	tell("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
}

static void forks(void)
{
	static pid_t made[100000];
	size_t count = 0;

	while (count < COUNT(made)) {
		pid_t child = fork();

		if (child < 0)
			break;
		if (!child) {
			pause();
			_exit(0);
		}
		made[count++] = child;
	}
	printf("stopped by %s\nprocesses %zu\n", strerrorname_np(errno), count);
	fflush(stdout);
	sleep(2);
	for (size_t i = 0; i < count; i++)
		kill(made[i], SIGKILL);
}

static void memory(void)
{
	for (size_t taken = 0; taken < 4096; taken++) {
		char *piece = malloc(MIB);

		if (!piece)
			break;
		for (size_t page = 0; page < MIB; page += 4096)
			((volatile char *)piece)[page] = 1;
		if (taken % 64 == 0)
			tell("MiB", 0);
	}
	puts("all of it");
}

/* Frames out of the instance's own link, as whoever it is told to be. */
static int link_socket(struct sockaddr_ll *link, uint8_t *own)
{
	struct ifreq request = { .ifr_name = "eth0" };
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));

	if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &request))
		return -1;
	memcpy(own, request.ifr_hwaddr.sa_data, ETH_ALEN);
	if (ioctl(fd, SIOCGIFINDEX, &request))
		return -1;
	*link = (struct sockaddr_ll){ .sll_family = AF_PACKET, .sll_ifindex = request.ifr_ifindex, .sll_halen = ETH_ALEN };
	return fd;
}

static uint16_t checksum(const uint8_t *data, size_t length)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i += 2)
		sum += data[i] << 8 | data[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static void spoof(const char *from, const char *to)
{
	uint8_t frame[14 + 20 + 8 + 4] = { 0 }, own[ETH_ALEN];
	struct sockaddr_ll link;
	int fd = link_socket(&link, own);
	uint8_t *ip = frame + 14;
	uint16_t sum;

	if (fd < 0) {
		tell("packet-socket", -1);
		return;
	}
	memset(frame, 0xff, ETH_ALEN);
	memcpy(frame + 6, own, ETH_ALEN);
	frame[12] = 8;
	ip[0] = 0x45, ip[3] = 32, ip[8] = 64, ip[9] = IPPROTO_UDP;
	inet_pton(AF_INET, from, ip + 12);
	inet_pton(AF_INET, to, ip + 16);
	sum = checksum(ip, 20);
	ip[10] = sum >> 8, ip[11] = sum & 0xff;
	ip[21] = 99, ip[22] = 80 >> 8, ip[23] = 80, ip[25] = 12;
	tell("spoofed-address", sendto(fd, frame, sizeof(frame), 0, (void *)&link, sizeof(link)));
	frame[11] ^= 1;
	tell("spoofed-mac", sendto(fd, frame, sizeof(frame), 0, (void *)&link, sizeof(link)));
}

/* A packet of IP whose source is somebody else's, without a frame of our own. */
static void raw(const char *from, const char *to)
{
	uint8_t packet[20 + 8 + 4] = { 0 };
	struct sockaddr_in there = { .sin_family = AF_INET };
	int frames = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);

	tell("packet-socket", frames);
	tell("raw-socket", fd);
	if (fd < 0)
		return;
	packet[0] = 0x45, packet[3] = 32, packet[8] = 64, packet[9] = IPPROTO_UDP;
	inet_pton(AF_INET, from, packet + 12);
	inet_pton(AF_INET, to, packet + 16);
	packet[21] = 98, packet[23] = 80, packet[25] = 12;
	inet_pton(AF_INET, to, &there.sin_addr);
	tell("forged", sendto(fd, packet, sizeof(packet), 0, (void *)&there, sizeof(there)));
}

static void told_line(const char *path)
{
	char line[100] = "";
	FILE *file = fopen(path, "re");

	if (!file) {
		tell(path, -1);
		return;
	}
	if (fgets(line, sizeof(line), file))
		line[strcspn(line, "\n")] = 0;
	printf("%s read:%s\n", path, line);
	fclose(file);
}

/* Ways that would lead to `secret`, a file of the host, and places to write to that the image made links of. */
static void links(const char *secret)
{
	static const char *const ways[] = { "", "/../../../../../..", "/proc/self/root", "/proc/1/root/..", "/proc/self/cwd/../.." };
	static const char *const written[] = { "/data/written", "/above/x/written", "/above/written" };
	char path[4096];

	told_line("/etc/hosts");
	told_line("/etc/passwd");
	for (size_t i = 0; i < COUNT(ways); i++) {
		snprintf(path, sizeof(path), "%s%s", ways[i], secret);
		told_line(path);
	}
	snprintf(path, sizeof(path), "../../../../../../../../../..%s", secret);
	unlink("/tmp/way");
	if (!symlink(path, "/tmp/way"))
		told_line("/tmp/way");
	for (size_t i = 0; i < COUNT(written); i++)
		tell(written[i], open(written[i], O_CREAT | O_WRONLY, 0600));
}

/* Says to all that the neighbour's address is ours: as a question, as an answer and as a gratuitous one. */
static void arp(const char *neighbour)
{
	uint8_t frame[42] = { 0 }, own[ETH_ALEN];
	struct sockaddr_ll link;
	int fd = link_socket(&link, own);

	if (fd < 0) {
		tell("packet-socket", -1);
		return;
	}
	memset(frame, 0xff, ETH_ALEN);
	memcpy(frame + 6, own, ETH_ALEN);
	memcpy(frame + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00", 9);
	memcpy(frame + 22, own, ETH_ALEN);
	inet_pton(AF_INET, neighbour, frame + 28);
	inet_pton(AF_INET, neighbour, frame + 38);
	for (int operation = 1; operation <= 2; operation++) {
		frame[21] = operation;
		tell(operation == 1 ? "arp-request" : "arp-reply",
		     sendto(fd, frame, sizeof(frame), 0, (void *)&link, sizeof(link)));
	}
}

static int serve(void)
{
	static char line[1000];

	memset(line, 'x', sizeof(line));
	line[sizeof(line) - 1] = '\n';
	puts("serving");
	fflush(stdout);
	while (access("/tmp/flood", F_OK))
		usleep(100000);
	for (int i = 0; i < 100000; i++)
		fwrite(line, sizeof(line), 1, stdout);
	puts("flooded");
	fflush(stdout);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "";

	if (!strcmp(word, "identity"))
		identity();
	else if (!strcmp(word, "devices"))
		devices();
	else if (!strcmp(word, "pokes"))
		pokes();
	else if (!strcmp(word, "calls"))
		calls();
	else if (!strcmp(word, "forks"))
		forks();
	else if (!strcmp(word, "memory"))
		memory();
	else if (!strcmp(word, "flood"))
		tell("flood", open("/tmp/flood", O_CREAT, 0600));
	else if (!strcmp(word, "spoof") && argc == 4)
		spoof(argv[2], argv[3]);
	else if (!strcmp(word, "raw") && argc == 4)
		raw(argv[2], argv[3]);
	else if (!strcmp(word, "links") && argc == 3)
		links(argv[2]);
	else if (!strcmp(word, "arp") && argc == 3)
		arp(argv[2]);
	else if (argc == 1)
		return serve();
	else
		return 2;
	return 0;
}
