/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/system.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "channel/records.h"
#include "disk/files.h"
#include "disk/root.h"
#include "network/lease.h"
#include "setup/place.h"
#include "supervisor/report.h"

#define PLAN "/containers/plan"
#define VOLUMES "/containers/volumes"
#define WRITABLE "/run/whit/writable/volumes"
#define KEPT "/var/lib/whit/volumes"
#define ROOT "/root"
#define SAFE (MS_NOSUID | MS_NODEV)

static char form[1 << 16], plan[1 << 16];
static size_t form_length, plan_length;

static size_t read_records(const char *path, char *text, size_t size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t found = file >= 0 ? read(file, text, size - 1) : -1;

	if (file >= 0)
		close(file);
	text[found > 0 ? found : 0] = 0;
	return found > 0 ? found : 0;
}

/*
 * The machine's files are in memory or on a disk, as /system says (root.h). The root that the kernel unpacked cannot be
 * left by pivot_root(2), as crun does for each container; one that is mounted over it can.
 */
static bool enter_root(void)
{
	static const char *const moved[] = { "/proc", "/sys", "/dev" };
	char path[64];

	mkdir(ROOT, 0700);
	if (!root_mount(form, form_length, ROOT) || !root_keep(form, form_length, ROOT))
		return false;
	for (size_t at = 0; at < sizeof(moved) / sizeof(*moved); at++) {
		snprintf(path, sizeof(path), ROOT "%s", moved[at]);
		if (mount(moved[at], path, NULL, MS_MOVE, NULL))
			return complain("move", moved[at]);
	}
	if (chdir(ROOT) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		return complain("enter", "the root");
	return !mount("tmpfs", "/run", "tmpfs", SAFE, "mode=755,size=10%") || complain("mount", "/run");
}

static void mount_system(void)
{
	static const char *const places[] = { "/dev/pts", "/dev/shm", "/dev/mqueue", "/tmp", "/run/whit/writable" };

	mkdir("/tmp", 01777);
	for (size_t at = 0; at < sizeof(places) / sizeof(*places); at++)
		make_directories(places[at]);
	mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5");
	mount("tmpfs", "/dev/shm", "tmpfs", SAFE, "mode=1777");
	mount("mqueue", "/dev/mqueue", "mqueue", SAFE | MS_NOEXEC, NULL);
	mount("tmpfs", "/tmp", "tmpfs", SAFE, "mode=1777,size=10%");
	if (mount("tmpfs", "/run/whit/writable", "tmpfs", MS_NODEV, "mode=755,size=50%"))
		complain("mount", "/run/whit/writable");
	if (mount("cgroup", "/sys/fs/cgroup", "cgroup2", SAFE | MS_NOEXEC, NULL))
		complain("mount", "/sys/fs/cgroup");
	symlink("/proc/self/fd", "/dev/fd");
	/* A container that mounts a disk for the others shares the place with them. */
	mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL);
	if (!write_text("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids"))
		complain("hand on", "controllers");
}

/* A volume is seen at `merged`: as it is if it is read-only, else with memory over it, or with what the disk keeps. */
static void mount_volumes(void)
{
	const char *position = NULL, *value;

	while ((value = plan_next("volume", &position))) {
		char copy[128], lower[256], merged[256], memory[256], *field[2];

		snprintf(copy, sizeof(copy), "%s", value);
		split(copy, '=', field, 2);
		snprintf(lower, sizeof(lower), VOLUMES "/%s/lower", field[0]);
		snprintf(merged, sizeof(merged), VOLUMES "/%s/merged", field[0]);
		snprintf(memory, sizeof(memory), "%s/%s", *record(form, form_length, "state", "") ? KEPT : WRITABLE, field[0]);
		if (*field[1])
			bind_directory(lower, merged, true);
		else
			mount_overlay(lower, memory, merged);
	}
}

static void ask_for_address(void)
{
	const char *interface = plan_value("dhcp");

	if (*interface && !lease_start(interface, "/etc/resolv.conf"))
		say("whit: nobody gave %s an address yet; it goes on asking", interface);
}

bool system_enter(void)
{
	form_length = read_records("/system", form, sizeof(form));
	if (!enter_root())
		return false;
	mount_system();
	plan_length = read_records(PLAN, plan, sizeof(plan));
	return true;
}

void system_prepare(void)
{
	raise_loopback();
	mount_volumes();
	ask_for_address();
}

bool system_has_versions(void)
{
	return !strcmp(record(form, form_length, "root", ""), "verity");
}

const char *plan_next(const char *key, const char **position)
{
	return next_record(plan, plan_length, key, position);
}

const char *plan_value(const char *key)
{
	return record(plan, plan_length, key, "");
}
