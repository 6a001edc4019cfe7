/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Status and logs over HTTP, for machines whose file asks for it. Nothing can be changed through it.
 *
 *   GET /v1/status       {"up": …, "at": …, "containers": [{"stage": …, "name": …, "state": …, …}]}
 *   GET /v1/logs/NAME    the last that a container printed, as text
 */
#ifndef WHIT_HTTP_H
#define WHIT_HTTP_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

#include "supervisor/container.h"

#define HTTP_POLLS 9

/* What there is to be told. */
struct overview {
	bool up;
	const struct container *onboot, *services;
	size_t onboot_count, service_count;
};

/* Without a port, nobody is listened to. */
void http_open(const char *port);
/* Descriptors to wait for, HTTP_POLLS of them. */
void http_polls(struct pollfd *polls);
void http_turn(const struct pollfd *polls, const struct overview *overview);

#endif
