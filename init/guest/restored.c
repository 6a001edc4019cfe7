/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/restored.h"

#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "channel/records.h"
#include "setup/setup.h"

#define MOST 256 /* bytes of entropy */

static bool complain(const char *what)
{
	fprintf(stderr, "whit: %s: %m\n", what);
	return false;
}

/* How long it slept, only the wall clock is to know: what counts time that it ran has gone on from where it was. */
static bool set_clock(const char *text)
{
	struct timespec now = {};

	if (sscanf(text, "%ld.%9ld", &now.tv_sec, &now.tv_nsec) != 2)
		return true;
	return !clock_settime(CLOCK_REALTIME, &now) || complain("set the clock");
}

/* Else what is restored twice would draw the same numbers twice, keys among them (random(4)). */
static bool add_entropy(const char *hex)
{
	union {
		struct rand_pool_info info;
		char bytes[sizeof(struct rand_pool_info) + MOST];
	} pool = {};
	unsigned char *bytes = (unsigned char *)pool.info.buf;
	int size = 0, device = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	bool done;

	for (; size < MOST && hex[0] && hex[1]; hex += 2, size++)
		sscanf(hex, "%2hhx", bytes + size);
	pool.info.buf_size = size;
	pool.info.entropy_count = size * 8;
	done = device >= 0 && !ioctl(device, RNDADDENTROPY, &pool.info) && !ioctl(device, RNDRESEEDCRNG);
	if (!done)
		complain("add entropy");
	if (device >= 0)
		close(device);
	return done;
}

bool restored(const char *records, size_t length)
{
	bool done = add_entropy(record(records, length, "entropy", ""));

	done &= set_clock(record(records, length, "time", ""));
	done &= setup_identity(records, length);
	return setup_files(records, length) && done;
}
