/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One container of a machine: made ready, run by crun, and ended. Its directory holds config.json, `rootfs` or `lower`,
 * and `runtime`, records (records.h):
 *
 *   name, uid, readonly (1); restart (no, on-failure, always), after, ready-tcp, ready-path, ready-timeout, grace,
 *   timeout (milliseconds, 0 for none); cgroup, mkdir, mount, sysctl, interface (place.h), bind-ns (KIND=PATH)
 */
#ifndef WHIT_CONTAINER_H
#define WHIT_CONTAINER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TAIL 2048
#define LINE 1024

enum state { STATE_WAITING, STATE_RUNNING, STATE_READY, STATE_ENDED, STATE_FAILED, STATE_STOPPED };

struct container {
	char directory[256];
	char id[128]; /* what crun calls it */
	const char *stage;
	const char *name;
	char *records;
	size_t length;
	enum state state;
	pid_t pid;	 /* 0: it does not run */
	int status;	 /* exit status of the last run, 128 + signal; -1 before */
	int restarts;
	bool was_ready; /* at least once */
	int64_t started; /* milliseconds of the monotonic clock */
	int64_t again;	 /* not before this */
	int output;	 /* -1: nothing more comes */
	int64_t second; /* in which so many lines were shown */
	int shown;
	char line[LINE]; /* one that has not ended yet */
	size_t used;
	char tail[TAIL + 1]; /* the last of what it printed */
	char failure[256];   /* why it could not be started, or was ended */
};

int64_t now(void);
const char *state_name(enum state state);
long number_of(const struct container *container, const char *key);

/* Reads its records. False: there are none. */
bool container_open(struct container *container, const char *stage, const char *directory);
/* False: `failure` says why. */
bool container_start(struct container *container);
/* It has ended with this status of waitpid(2): what is left of it goes. */
void container_ended(struct container *container, int status);
void container_kill(struct container *container, int signal);
/* Whether what it is waited for is there. */
bool container_is_ready(const struct container *container);
/* Reads what it printed, and hands over whole lines. */
void container_read(struct container *container, void (*line)(struct container *, const char *));

#endif
