/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/services.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "channel/records.h"
#include "supervisor/report.h"

#define SHORTEST_PAUSE 100 /* milliseconds before a service is started again, doubled each time */
#define LONGEST_PAUSE 10000
#define LONG_RUN 10000 /* after which a service begins anew with the shortest */
#define LOOK 20
#define CANNOT_RUN 125

struct container *services;
size_t service_count;

struct container *service_of(const char *name)
{
	for (size_t at = 0; at < service_count; at++)
		if (!strcmp(services[at].name, name))
			return services + at;
	return NULL;
}

void service_stop(struct container *service)
{
	service->again = INT64_MAX;
	if (!service->pid)
		service->state = STATE_STOPPED;
	container_kill(service, SIGTERM);
}

void service_start(struct container *service)
{
	if (service->pid)
		return;
	service->state = STATE_WAITING;
	service->again = 0;
}

void service_ended(struct container *service, bool last)
{
	const char *restart = record(service->records, service->length, "restart", "on-failure");
	bool failed = service->status != 0;
	int64_t pause = SHORTEST_PAUSE;

	service->state = failed ? STATE_FAILED : STATE_ENDED;
	if (service->again == INT64_MAX || last)
		service->state = STATE_STOPPED;
	tell(service->state == STATE_STOPPED ? "stopped" : "ended", service);
	if (service->state == STATE_STOPPED || !strcmp(restart, "no") || (!failed && strcmp(restart, "always")))
		return;
	if (now() - service->started > LONG_RUN)
		service->restarts = 0;
	for (int times = 0; times < service->restarts && pause < LONGEST_PAUSE; times++)
		pause *= 2;
	service->restarts++;
	service->again = now() + (pause < LONGEST_PAUSE ? pause : LONGEST_PAUSE);
	service->state = STATE_WAITING;
	say("whit: %s ended with %d, and is started again", service->name, service->status);
}

static bool may_start(const struct container *service)
{
	const char *position = NULL, *name;

	if (now() < service->again)
		return false;
	while ((name = next_record(service->records, service->length, "after", &position))) {
		const struct container *other = service_of(name);

		if (other && other->state != STATE_READY && other->state != STATE_ENDED)
			return false;
	}
	return true;
}

static void start(struct container *service)
{
	if (container_start(service)) {
		tell("started", service);
		return;
	}
	say("whit: %s was not started: %s", service->name, service->failure);
	service->status = CANNOT_RUN;
	service_ended(service, false);
}

static void tend(struct container *service)
{
	long patience = number_of(service, "ready-timeout");

	if (service->state == STATE_WAITING && may_start(service))
		start(service);
	if (service->state != STATE_RUNNING)
		return;
	if (container_is_ready(service)) {
		service->state = STATE_READY;
		service->was_ready = true;
		tell("ready", service);
	} else if (patience && now() - service->started > patience && !*service->failure) {
		snprintf(service->failure, sizeof(service->failure), "it was not ready after %ld ms", patience);
		say("whit: %s: %s", service->name, service->failure);
		container_kill(service, SIGKILL);
	}
}

void services_tend(void)
{
	for (size_t at = 0; at < service_count; at++)
		tend(services + at);
}

int services_pause(void)
{
	int pause = -1;

	for (size_t at = 0; at < service_count; at++) {
		const struct container *one = services + at;
		int64_t left = one->state == STATE_WAITING ? one->again - now() : LOOK;

		if (one->state != STATE_WAITING && one->state != STATE_RUNNING)
			continue;
		left = left < 0 ? 0 : left;
		/* Those that wait for others are looked at when these change, which they tell. */
		if (one->state == STATE_WAITING && !left)
			left = LOOK;
		if (pause < 0 || left < pause)
			pause = left;
	}
	return pause;
}

bool services_any_failed(void)
{
	for (size_t at = 0; at < service_count; at++)
		if (services[at].state == STATE_FAILED && services[at].status)
			return true;
	return false;
}

bool services_all_up(void)
{
	for (size_t at = 0; at < service_count; at++)
		if (!services[at].was_ready &&
		    (services[at].state == STATE_WAITING || services[at].state == STATE_RUNNING))
			return false;
	return true;
}
