/* SPDX-License-Identifier: Apache-2.0 */
#include "setup/place.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/files.h"

#define UNIT 0x1f

void split(char *text, char separator, char **fields, int count)
{
	for (int at = 0; at < count; at++) {
		char *end = at + 1 < count ? strchr(text, separator) : NULL;

		fields[at] = text;
		if (end)
			*end = 0;
		text = end ? end + 1 : text + strlen(text);
	}
}

/* What an overlay writes to, as its options name it. */
static bool make_layers(const char *options)
{
	static const char *const names[] = { "upperdir=", "workdir=" };
	char copy[LONGEST], *option, *rest = copy;
	bool made = true;

	snprintf(copy, sizeof(copy), "%s", options);
	while (made && (option = strsep(&rest, ",")))
		for (int at = 0; made && at < 2; at++)
			if (!strncmp(option, names[at], strlen(names[at])))
				made = make_directories(option + strlen(names[at]));
	return made;
}

bool make_mount(const char *record)
{
	char copy[LONGEST], *field[6];
	unsigned long flags, propagation;

	snprintf(copy, sizeof(copy), "%s", record);
	split(copy, UNIT, field, 6);
	flags = strtoul(field[3], NULL, 16);
	propagation = strtoul(field[4], NULL, 16);
	if (!make_directories(field[2]) || (!strcmp(field[0], "overlay") && !make_layers(field[5])))
		return false;
	if (mount(field[1], field[2], field[0], flags, *field[5] ? field[5] : NULL))
		return complain("mount", field[2]);
	/* The first call of a bind takes no other flag. */
	if (flags & MS_BIND && flags & ~(MS_BIND | MS_REC) && mount(NULL, field[2], NULL, MS_REMOUNT | flags, NULL))
		return complain("change the mount", field[2]);
	if (propagation && mount(NULL, field[2], NULL, propagation, NULL))
		return complain("share the mount", field[2]);
	return true;
}

bool bind_directory(const char *from, const char *to, bool read_only)
{
	if (!make_directories(to))
		return false;
	if (mount(from, to, NULL, MS_BIND, NULL) ||
	    (read_only && mount(NULL, to, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL)))
		return complain("bind", to);
	return true;
}

bool mount_overlay(const char *lower, const char *memory, const char *to)
{
	char upper[LONGEST], work[LONGEST], options[3 * LONGEST];
	struct stat root;

	snprintf(upper, sizeof(upper), "%s/upper", memory);
	snprintf(work, sizeof(work), "%s/work", memory);
	if (!make_directories(upper) || !make_directories(work) || !make_directories(to))
		return false;
	/* The root of what is seen is that of the upper directory. */
	if (!stat(lower, &root) && (chmod(upper, root.st_mode & 07777) || chown(upper, root.st_uid, root.st_gid)))
		return complain("own", upper);
	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work);
	return !mount("overlay", to, "overlay", 0, options) || complain("mount", to);
}

bool set_sysctl(const char *setting)
{
	char copy[LONGEST], path[LONGEST + 16], *field[2];

	snprintf(copy, sizeof(copy), "%s", setting);
	split(copy, '=', field, 2);
	for (char *dot = field[0]; (dot = strchr(dot, '.'));)
		*dot = '/';
	snprintf(path, sizeof(path), "/proc/sys/%s", field[0]);
	return write_text(path, field[1]) || complain("set", setting);
}

/* ---- links ---- */

struct message {
	struct nlmsghdr header;
	struct ifinfomsg info;
	char attributes[1024];
};

static void *end_of(struct message *message)
{
	return (char *)message + NLMSG_ALIGN(message->header.nlmsg_len);
}

static struct rtattr *add(struct message *message, int type, const void *data, size_t length)
{
	struct rtattr *attribute = end_of(message);

	attribute->rta_type = type;
	attribute->rta_len = RTA_LENGTH(length);
	if (length)
		memcpy(RTA_DATA(attribute), data, length);
	message->header.nlmsg_len = NLMSG_ALIGN(message->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
	return attribute;
}

static void finish(struct message *message, struct rtattr *nest)
{
	nest->rta_len = (char *)end_of(message) - (char *)nest;
}

/* The message to the kernel, from the network that the caller is in. */
static bool ask(struct message *message)
{
	union {
		struct nlmsghdr header;
		char bytes[LONGEST];
	} answer;
	int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int error = EPROTO;

	message->header.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	if (sock < 0 || send(sock, message, message->header.nlmsg_len, 0) < 0 ||
	    recv(sock, &answer, sizeof(answer), 0) < 0)
		error = errno;
	else if (answer.header.nlmsg_type == NLMSG_ERROR)
		error = -((struct nlmsgerr *)NLMSG_DATA(&answer.header))->error;
	if (sock >= 0)
		close(sock);
	errno = error;
	return !error;
}

static struct message new_message(int index)
{
	struct message message = { .header = { .nlmsg_type = RTM_NEWLINK } };

	message.header.nlmsg_len = NLMSG_LENGTH(sizeof(message.info));
	message.info.ifi_index = index;
	return message;
}

static bool create_link(const char *name, const char *kind, const char *peer)
{
	struct message message = new_message(0);
	struct rtattr *info, *data, *other;
	struct ifinfomsg none = {};

	message.header.nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL;
	add(&message, IFLA_IFNAME, name, strlen(name) + 1);
	info = add(&message, IFLA_LINKINFO, NULL, 0);
	add(&message, IFLA_INFO_KIND, kind, strlen(kind));
	if (*peer) {
		data = add(&message, IFLA_INFO_DATA, NULL, 0);
		other = add(&message, VETH_INFO_PEER, &none, sizeof(none));
		add(&message, IFLA_IFNAME, peer, strlen(peer) + 1);
		finish(&message, other);
		finish(&message, data);
	}
	finish(&message, info);
	return ask(&message) || complain("make the link", name);
}

static bool move_link(const char *name, pid_t pid)
{
	struct message message = new_message(if_nametoindex(name));
	uint32_t number = pid;

	if (!message.info.ifi_index)
		return complain("find the link", name);
	add(&message, IFLA_NET_NS_PID, &number, sizeof(number));
	return ask(&message) || complain("move the link", name);
}

static bool create_inside(const char *name, const char *kind, pid_t pid)
{
	char path[64];
	int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), other;
	bool made;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	other = open(path, O_RDONLY | O_CLOEXEC);
	made = !setns(other, CLONE_NEWNET) && create_link(name, kind, "");
	setns(own, CLONE_NEWNET);
	close(own);
	close(other);
	return made;
}

bool give_interface(const char *record, pid_t pid)
{
	char copy[256], *field[4];

	snprintf(copy, sizeof(copy), "%s", record);
	split(copy, UNIT, field, 4);
	if (*field[1] && !*field[2] && *field[3] != '1')
		return create_inside(field[0], field[1], pid);
	if (*field[1] && !create_link(field[0], field[1], field[2]))
		return false;
	return move_link(field[0], pid);
}

bool raise_loopback(void)
{
	struct message message = new_message(1);

	message.info.ifi_flags = message.info.ifi_change = IFF_UP;
	return ask(&message) || complain("raise", "the loopback link");
}
