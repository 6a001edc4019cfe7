/* SPDX-License-Identifier: Apache-2.0 */
/* The services of a machine: each started when those that it comes after are ready, and again when it failed. */
#ifndef WHIT_SERVICES_H
#define WHIT_SERVICES_H

#include "supervisor/container.h"

extern struct container *services;
extern size_t service_count;

struct container *service_of(const char *name);
/* Starts what may be started, and sees who has become ready, or is not in time. */
void services_tend(void);
/* One has ended; `last`: the machine ends, so that it is not started again. */
void service_ended(struct container *service, bool last);
/* It is not started again. */
void service_stop(struct container *service);
/* As if it had never ended. */
void service_start(struct container *service);
/* Milliseconds until something has to be done that nobody tells; -1 for ever. */
int services_pause(void);
/* A service that ended and is not started again has to have ended well. */
bool services_any_failed(void);
/* None is waited for: each was ready once, or has ended for good. */
bool services_all_up(void);

#endif
