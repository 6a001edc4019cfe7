/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "disk/slots.h"

#define PORT_NAME "whit.upgrade\n"
#define MAGIC 0x31475055 /* "UPG1" */
#define LARGEST (1u << 20)
#define SECTOR 512
#define PATIENCE 100	/* tenths of a second for the port to appear */
#define REST 200000	/* microseconds between two looks whether somebody is there */

enum what { HELLO = 1, READ, WRITE, FLUSH, REBOOT };

struct request {
	uint32_t magic, what;
	uint64_t place;
	uint32_t size, zero;
};

struct range {
	uint64_t begin, end;
};

static char data[LARGEST] __attribute__((aligned(4096)));
static struct range writable[3];
static int port = -1, disk = -1;

static int open_port(void)
{
	glob_t found;
	int opened = -1;

	if (glob("/sys/class/virtio-ports/*/name", 0, NULL, &found))
		return -1;
	for (size_t at = 0; at < found.gl_pathc && opened < 0; at++) {
		char name[64] = "", device[64], path[80];
		FILE *file = fopen(found.gl_pathv[at], "re");

		if (file && fgets(name, sizeof(name), file) && !strcmp(name, PORT_NAME) &&
		    sscanf(found.gl_pathv[at], "/sys/class/virtio-ports/%63[^/]", device) == 1) {
			snprintf(path, sizeof(path), "/dev/%s", device);
			opened = open(path, O_RDWR | O_CLOEXEC);
		}
		if (file)
			fclose(file);
	}
	globfree(&found);
	return opened;
}

/* False: whoever speaks has gone. */
static bool receive(void *to, size_t size)
{
	char *place = to;

	while (size) {
		ssize_t got = read(port, place, size);

		if (got <= 0)
			return false;
		place += got;
		size -= got;
	}
	return true;
}

static bool send_all(const void *from, size_t size)
{
	const char *place = from;

	while (size) {
		ssize_t put = write(port, place, size);

		if (put <= 0)
			return false;
		place += put;
		size -= put;
	}
	return true;
}

static bool answer(int error, size_t size)
{
	uint32_t head[] = { error, size };

	return send_all(head, sizeof(head)) && send_all(data, size);
}

static bool may_write(const struct request *request)
{
	for (size_t at = 0; at < sizeof(writable) / sizeof(*writable); at++)
		if (request->place >= writable[at].begin && request->place < writable[at].end &&
		    request->size <= writable[at].end - request->place)
			return true;
	return false;
}

static int read_disk(const struct request *request)
{
	ssize_t got = pread(disk, data, request->size, request->place);

	return got == (ssize_t)request->size ? 0 : got < 0 ? errno : EIO;
}

static int write_disk(const struct request *request)
{
	ssize_t put;

	if (!slots_proven())
		return EBUSY;
	if (!may_write(request))
		return EPERM;
	put = pwrite(disk, data, request->size, request->place);
	return put == (ssize_t)request->size ? 0 : put < 0 ? errno : EIO;
}

static size_t hello(void)
{
	off_t size = lseek(disk, 0, SEEK_END);

	return snprintf(data, sizeof(data), "%s %lld %d", slots_version(), (long long)size, slots_proven());
}

static bool obey(const struct request *request)
{
	switch (request->what) {
	case HELLO:
		return answer(0, hello());
	case READ: {
		int error = read_disk(request);

		return answer(error, error ? 0 : request->size);
	}
	case WRITE:
		return answer(write_disk(request), 0);
	case FLUSH:
		return answer(fsync(disk) ? errno : 0, 0);
	case REBOOT:
		kill(1, SIGTERM);
		return answer(0, 0);
	default:
		return answer(ENOSYS, 0);
	}
}

static bool serve_one(void)
{
	struct request request;

	if (!receive(&request, sizeof(request)))
		return false;
	if (request.magic != MAGIC || request.size > LARGEST || request.size % SECTOR || request.place % SECTOR)
		return answer(EINVAL, 0) && false;
	return (request.what != WRITE || receive(data, request.size)) && obey(&request);
}

static bool open_disk(void)
{
	static const char *const names[] = { "esp", "root-%c", "hash-%c" };
	char path[64];

	if (!slots_find())
		return false;
	snprintf(path, sizeof(path), "/dev/%s", slots_disk());
	disk = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	for (size_t at = 0; at < sizeof(names) / sizeof(*names); at++) {
		char name[16];

		snprintf(name, sizeof(name), names[at], slots_letter() == 'a' ? 'b' : 'a');
		if (!slots_range(name, &writable[at].begin, &writable[at].end))
			return false;
	}
	return disk >= 0;
}

static void serve(void)
{
	sigset_t none;

	prctl(PR_SET_NAME, "upgrade");
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_IGN);
	for (int tries = 0; tries < PATIENCE && (port = open_port()) < 0; tries++)
		usleep(100000);
	if (port < 0 || !open_disk())
		return;
	for (;;) {
		struct pollfd polled = { .fd = port, .events = POLLIN };

		if (poll(&polled, 1, -1) < 0 || polled.revents & POLLHUP || !serve_one())
			usleep(REST);
	}
}

void upgrade_serve(void)
{
	if (!slots_asked())
		return;
	/* Its own mounts: the devices stay where they are now. */
	if (!syscall(SYS_clone, CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0)) {
		serve();
		_exit(0);
	}
}
