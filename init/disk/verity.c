/* SPDX-License-Identifier: Apache-2.0 */
/* Source: Documentation/admin-guide/device-mapper/verity.rst and include/uapi/linux/dm-ioctl.h of Linux. */
#include "disk/verity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "disk/files.h"

#define NAME "root"
#define OPTION "whit.verity="
#define BLOCK 4096
#define SECTORS (BLOCK / 512)

struct request {
	struct dm_ioctl head;
	struct dm_target_spec target;
	char parameters[1024];
};

bool verity_read(struct verity *verity)
{
	const char *found = kernel_option(OPTION);

	errno = EINVAL;
	return found && sscanf(found, OPTION "%64[0-9a-f]:%llu:%64[0-9a-f]", verity->root_hash, &verity->blocks,
			       verity->salt) == 3;
}

static struct request empty(void)
{
	struct request request = {
		.head = { .version = { 4, 0, 0 }, .data_size = sizeof(struct request), .data_start = sizeof(struct dm_ioctl) },
	};

	snprintf(request.head.name, sizeof(request.head.name), "%s", NAME);
	return request;
}

/* panic_on_corruption: whoever reads an error instead may go on with half of a system. */
static bool load_table(int control, const struct verity *verity, const char *data, const char *tree)
{
	struct request request = empty();

	request.head.target_count = 1;
	request.head.flags = DM_READONLY_FLAG;
	request.target = (struct dm_target_spec){ .length = verity->blocks * SECTORS };
	strcpy(request.target.target_type, "verity");
	snprintf(request.parameters, sizeof(request.parameters), "1 %s %s %d %d %llu 1 sha256 %s %s 1 panic_on_corruption",
		 data, tree, BLOCK, BLOCK, verity->blocks, verity->root_hash, verity->salt);
	return !ioctl(control, DM_TABLE_LOAD, &request);
}

bool verity_open(const struct verity *verity, const char *data, const char *tree, char *device, size_t size)
{
	struct request create = empty(), resume = empty();
	int control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	bool done;

	create.head.flags = DM_READONLY_FLAG;
	done = control >= 0 && !ioctl(control, DM_DEV_CREATE, &create) && load_table(control, verity, data, tree) &&
	       !ioctl(control, DM_DEV_SUSPEND, &resume);
	snprintf(device, size, "/dev/dm-%u", minor(create.head.dev));
	if (control >= 0)
		close(control);
	return done;
}
