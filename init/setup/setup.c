/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The root (root.h) holds what an instance sees, volumes too. It is mounted at SHARED with all rights, and at ROOT as the
 * instance may see it; what stays writable is bound over that. Places come without links in them, which would lead out of
 * the root here.
 */
#include "setup/setup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "channel/records.h"
#include "disk/files.h"
#include "disk/root.h"
#include "network/lease.h"

#define SHARED "/shared"
#define ROOT "/root"
#define SAFE (MS_NOSUID | MS_NODEV | MS_NOEXEC)

static void load_modules(const char *names)
{
	char line[LONGEST];
	FILE *list = fopen(names, "re");

	while (list && fgets(line, sizeof(line), list)) {
		int file;

		line[strcspn(line, "\n")] = 0;
		file = open(line, O_RDONLY | O_CLOEXEC);
		if (syscall(SYS_finit_module, file, "", 0) && errno != EEXIST)
			complain("load", line);
		close(file);
	}
	if (list)
		fclose(list);
}

void setup_kernel(void)
{
	mount("proc", "/proc", "proc", SAFE, NULL);
	mount("sys", "/sys", "sysfs", SAFE, NULL);
	mount("dev", "/dev", "devtmpfs", MS_NOSUID, NULL);
	load_modules("/modules");
}

static bool bind_place(const char *place, bool read_only)
{
	char from[LONGEST], to[LONGEST];
	unsigned long only = MS_NOSUID | MS_NODEV | (read_only ? MS_RDONLY : 0);

	snprintf(from, sizeof(from), SHARED "%s", place);
	snprintf(to, sizeof(to), ROOT "%s", place);
	if (mount(from, to, NULL, MS_BIND, NULL) || mount(NULL, to, NULL, MS_REMOUNT | MS_BIND | only, NULL))
		return complain("bind", place);
	return true;
}

/* PLACE=OPTIONS, as of mount(8); the flags are the same for all. */
static bool mount_memory(const char *value)
{
	char path[LONGEST], options[LONGEST] = "";
	const char *equals = strchr(value, '=');
	int size = equals ? (int)(equals - value) : (int)strlen(value);
	unsigned long flags = SAFE;

	snprintf(path, sizeof(path), SHARED "%.*s", size, value);
	make_directories(path);
	snprintf(path, sizeof(path), ROOT "%.*s", size, value);
	snprintf(options, sizeof(options), "%s", equals ? equals + 1 : "");
	if (mount("tmpfs", path, "tmpfs", flags, options))
		return complain("mount memory at", path);
	return true;
}

static void make_device(const char *path, unsigned major_, unsigned minor_)
{
	if (mknod(path, S_IFCHR | 0666, makedev(major_, minor_)) || chmod(path, 0666))
		complain("make", path);
}

/* What runtime-spec 1.0, "Default devices" and "Dev symbolic links", has; nothing of the machine's own. */
static bool make_devices(void)
{
	if (mount("tmpfs", ROOT "/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"))
		return complain("mount", "/dev");
	make_device(ROOT "/dev/null", 1, 3);
	make_device(ROOT "/dev/zero", 1, 5);
	make_device(ROOT "/dev/full", 1, 7);
	make_device(ROOT "/dev/random", 1, 8);
	make_device(ROOT "/dev/urandom", 1, 9);
	make_device(ROOT "/dev/tty", 5, 0);
	mkdir(ROOT "/dev/pts", 0755);
	mkdir(ROOT "/dev/shm", 01777);
	if (mount("devpts", ROOT "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		  "newinstance,ptmxmode=0666,mode=0620,gid=5"))
		return complain("mount", "/dev/pts");
	mount("tmpfs", ROOT "/dev/shm", "tmpfs", SAFE, "mode=1777,size=67108864");
	symlink("pts/ptmx", ROOT "/dev/ptmx");
	symlink("/proc/self/fd", ROOT "/dev/fd");
	symlink("/proc/self/fd/0", ROOT "/dev/stdin");
	symlink("/proc/self/fd/1", ROOT "/dev/stdout");
	symlink("/proc/self/fd/2", ROOT "/dev/stderr");
	return true;
}

static bool mount_all(const char *records, size_t length, const char *key, bool (*one)(const char *))
{
	const char *position = NULL, *value;
	bool done = true;

	while ((value = next_record(records, length, key, &position)))
		done &= one(value);
	return done;
}

static bool bind_writable(const char *place)
{
	return bind_place(place, false);
}

static bool bind_read_only(const char *place)
{
	return bind_place(place, true);
}

/* PLACE=CONTENT, in hex: a file of the root, which is at `root`, whatever was there. */
static bool write_below(const char *root, const char *value)
{
	char path[LONGEST];
	unsigned char byte;
	const char *equals = strchr(value, '='), *hex = equals ? equals + 1 : "";
	FILE *file;

	snprintf(path, sizeof(path), "%s%.*s", root, (int)(equals ? equals - value : 0), value);
	*strrchr(path, '/') = 0;
	make_directories(path);
	path[strlen(path)] = '/';
	unlink(path);
	file = fopen(path, "we");
	if (!file)
		return complain("write", value);
	for (; hex[0] && hex[1]; hex += 2)
		if (sscanf(hex, "%2hhx", &byte) == 1)
			fputc(byte, file);
	return !fclose(file) || complain("write", path);
}

static bool write_file(const char *value)
{
	return write_below(SHARED, value);
}

static bool rewrite_file(const char *value)
{
	return write_below("", value);
}

static bool make_root(const char *records, size_t length)
{
	bool read_only = *record(records, length, "readonly", "") == '1';
	static const char *const places[] = { "/proc", "/sys", "/dev" };

	mkdir(SHARED, 0700);
	mkdir(ROOT, 0700);
	if (!strncmp(record(records, length, "root", ""), "disk:", 5))
		load_modules("/modules.disk");
	if (!root_mount(records, length, SHARED))
		return false;
	for (size_t at = 0; at < sizeof(places) / sizeof(*places); at++) {
		char path[LONGEST];

		snprintf(path, sizeof(path), SHARED "%s", places[at]);
		make_directories(path);
	}
	if (!mount_all(records, length, "file", write_file))
		return false;
	if (mount(SHARED, ROOT, NULL, MS_BIND, NULL))
		return complain("bind", "the root");
	if (read_only && mount(NULL, ROOT, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV, NULL))
		return complain("make read-only", "the root");
	if (mount("proc", ROOT "/proc", "proc", SAFE, NULL) || mount("sys", ROOT "/sys", "sysfs", SAFE | MS_RDONLY, NULL))
		return complain("mount", "/proc and /sys");
	mount("cgroup", ROOT "/sys/fs/cgroup", "cgroup2", SAFE | MS_RDONLY, NULL);
	return make_devices() && mount_all(records, length, "bind", bind_writable) &&
	       mount_all(records, length, "bind-ro", bind_read_only) && mount_all(records, length, "tmpfs", mount_memory) &&
	       root_keep(records, length, ROOT);
}

static bool enter_root(void)
{
	if (chdir(ROOT) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		return complain("enter", "the root");
	return true;
}

/* PATH=VALUE below /proc/sys. */
static bool set_sysctl(const char *setting)
{
	char path[LONGEST];
	const char *equals = strchr(setting, '=');

	if (!equals)
		return true;
	snprintf(path, sizeof(path), "/proc/sys/%.*s", (int)(equals - setting), setting);
	if (!write_text(path, equals + 1) && errno != ENOENT)
		return complain("set", setting);
	return true;
}

/* A message to the kernel's routing, with its answer. */
static bool send_message(const char *hex)
{
	union {
		char bytes[LONGEST];
		struct nlmsghdr header;
	} message;
	size_t size = 0;
	int error = 0;
	int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	for (; size < sizeof(message) && hex[0] && hex[1]; hex += 2, size++)
		sscanf(hex, "%2hhx", (unsigned char *)message.bytes + size);
	if (send(sock, message.bytes, size, 0) < 0 || recv(sock, message.bytes, sizeof(message), 0) < 0)
		error = errno;
	else if (message.header.nlmsg_type == NLMSG_ERROR)
		error = -((struct nlmsgerr *)NLMSG_DATA(&message.header))->error;
	close(sock);
	errno = error;
	return error ? complain("set up", "the network") : true;
}

bool setup_identity(const char *records, size_t length)
{
	const char *name = record(records, length, "hostname", NULL);

	if (name && sethostname(name, strlen(name)))
		complain("set", "the host name");
	return mount_all(records, length, "netlink", send_message);
}

bool setup_files(const char *records, size_t length)
{
	bool read_only = *record(records, length, "readonly", "") == '1', done;

	if (read_only && mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_NODEV, NULL))
		return complain("make writable", "the root");
	done = mount_all(records, length, "file", rewrite_file);
	if (read_only && mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV, NULL))
		return complain("make read-only", "the root");
	return done;
}

bool setup_system(const char *records, size_t length)
{
	const char *interface = record(records, length, "dhcp", NULL);

	if (!mount_all(records, length, "sysctl", set_sysctl) || !setup_identity(records, length) ||
	    !make_root(records, length))
		return false;
	/* Out here, because the root may be read-only. A machine without an address is still one that can say so. */
	if (interface)
		lease_start(interface, SHARED "/etc/resolv.conf");
	return enter_root();
}
