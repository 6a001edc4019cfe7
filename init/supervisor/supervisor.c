/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of a declared machine. It runs the containers of `onboot` one after the other and stops with a
 * report at the first that fails, keeps the services running, and at the end runs those of `onshutdown` and powers off.
 * There is no shell: a plan says what there is (system.h), and each container's directory how it is run (container.h).
 *
 * A machine with two versions (slots.h) keeps the one that it runs once that is up. One on trial whose onboot fails, whose
 * services fail or are not ready in time, boots again, until the other has its turn.
 *
 * Commands on the port: status, logs NAME, follow, start NAME, stop NAME, poweroff, reboot. Signals as busybox's
 * poweroff and reboot send them: SIGUSR2 and SIGPWR power off, SIGTERM and SIGINT reboot.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk/files.h"
#include "disk/slots.h"
#include "disk/upgrade.h"
#include "first_boot/first_boot.h"
#include "setup/place.h"
#include "setup/setup.h"
#include "supervisor/button.h"
#include "supervisor/container.h"
#include "supervisor/debug.h"
#include "supervisor/http.h"
#include "supervisor/report.h"
#include "supervisor/services.h"
#include "supervisor/system.h"

#define MOST 256
#define FIXED (6 + HTTP_POLLS) /* descriptors that are waited for beside the containers' */
#define CANNOT_RUN 125
#define REST 500
#define TRIAL 120000 /* in which a new version has to be up */
#define MOST_LINES 200 /* of one container, on the console, in a second */

enum wish { WISH_RUN, WISH_POWER_OFF, WISH_REBOOT };

static struct container *onboot, *onshutdown;
static size_t onboot_count, onshutdown_count;
static struct container *current; /* that of onboot or onshutdown */
static enum wish wish;
static bool following, told_up;
static int signals, verdict;

static struct container *open_stage(const char *stage, const char *key, size_t *count)
{
	const char *position = NULL, *value;
	struct container *found = calloc(MOST, sizeof(*found));

	while (*count < MOST && (value = plan_next(key, &position)))
		*count += container_open(found + *count, stage, value);
	return found;
}

static bool set_up(void)
{
	setup_kernel();
	upgrade_serve();
	if (!system_enter())
		return false;
	report_open();
	button_open();
	system_prepare();
	http_open(plan_value("rest"));
	onboot = open_stage("onboot", "onboot", &onboot_count);
	services = open_stage("services", "service", &service_count);
	onshutdown = open_stage("onshutdown", "onshutdown", &onshutdown_count);
	return true;
}

/* ---- one turn of the loop ---- */

/* The console is slow: who prints more than it takes is heard in part, and does not keep the machine from its work. */
static bool may_show(struct container *container)
{
	int64_t second = now() / 1000;

	if (container->second != second) {
		if (container->shown > MOST_LINES)
			say("whit: %s printed %d lines more", container->name, container->shown - MOST_LINES);
		container->second = second;
		container->shown = 0;
	}
	return ++container->shown <= MOST_LINES;
}

static void show_line(struct container *container, const char *line)
{
	if (!may_show(container))
		return;
	say("%s: %s", container->name, line);
	if (following)
		tell_text("line", container, "line", line);
}

static void show_all(void)
{
	for (size_t at = 0; at < onboot_count; at++)
		tell("status", onboot + at);
	for (size_t at = 0; at < service_count; at++)
		tell("status", services + at);
	tell("end", NULL);
}

static void obey(char *line)
{
	char *word[2];
	struct container *service;

	split(line, ' ', word, 2);
	service = service_of(word[1]);
	if (!strcmp(word[0], "status"))
		show_all();
	else if (!strcmp(word[0], "follow"))
		following = true;
	else if (!strcmp(word[0], "poweroff") || (!strcmp(word[0], "stop") && !*word[1]))
		wish = WISH_POWER_OFF;
	else if (!strcmp(word[0], "reboot"))
		wish = WISH_REBOOT;
	else if (!strcmp(word[0], "logs") && service)
		tell_text("logs", service, "lines", service->tail);
	else if (!strcmp(word[0], "stop") && service)
		service_stop(service);
	else if (!strcmp(word[0], "start") && service)
		service_start(service);
	else
		tell_text("unknown", NULL, "command", word[0]);
}

static void hear_signals(void)
{
	struct signalfd_siginfo heard;

	while (read(signals, &heard, sizeof(heard)) == sizeof(heard)) {
		if (heard.ssi_signo == SIGUSR1 || heard.ssi_signo == SIGUSR2 || heard.ssi_signo == SIGPWR)
			wish = WISH_POWER_OFF;
		if (heard.ssi_signo == SIGTERM || heard.ssi_signo == SIGINT)
			wish = WISH_REBOOT;
	}
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		debug_ended(pid);
		if (current && current->pid == pid)
			container_ended(current, status);
		for (size_t at = 0; at < service_count; at++)
			if (services[at].pid == pid) {
				container_read(services + at, show_line);
				container_ended(services + at, status);
				service_ended(services + at, wish);
			}
	}
}

static void read_output(void)
{
	if (current)
		container_read(current, show_line);
	for (size_t at = 0; at < service_count; at++)
		container_read(services + at, show_line);
}

/* With nobody at its other end, a port would wake us without end: it is looked at now and then. */
static struct pollfd port_to_poll(int port, int64_t rest_until, short events, int *timeout)
{
	if (port < 0 || now() >= rest_until)
		return (struct pollfd){ .fd = port, .events = events };
	if (*timeout < 0 || *timeout > REST)
		*timeout = REST;
	return (struct pollfd){ .fd = -1 };
}

static void turn(int timeout)
{
	static int64_t rest_until[2];
	struct pollfd polls[MOST + FIXED + 1];
	size_t count = FIXED;
	short writing = report_wants_to_write() ? POLLOUT : 0;

	polls[0] = port_to_poll(report_port(), rest_until[0], POLLIN | writing, &timeout);
	polls[1] = port_to_poll(report_boot_port(), rest_until[1], POLLIN, &timeout);
	polls[2] = (struct pollfd){ .fd = signals, .events = POLLIN };
	button_poll(polls + 5);
	http_polls(polls + 6);
	if (debug_polls(polls + 3) && (timeout < 0 || timeout > REST))
		timeout = REST;
	polls[count++] = (struct pollfd){ .fd = current ? current->output : -1, .events = POLLIN };
	for (size_t at = 0; at < service_count; at++)
		polls[count++] = (struct pollfd){ .fd = services[at].output, .events = POLLIN };
	poll(polls, count, timeout);
	for (int at = 0; at < 2; at++)
		if (polls[at].revents & POLLHUP)
			rest_until[at] = now() + REST;
	debug_turn(polls + 3);
	if (button_pressed(polls + 5))
		wish = WISH_POWER_OFF;
	http_turn(polls + 6, &(struct overview){ told_up, onboot, services, onboot_count, service_count });
	hear_signals();
	report_receive(obey);
	report_flush();
	read_output();
	reap();
}

/* ---- onboot and onshutdown ---- */

/* Returns whether it ended well. */
static bool run_to_end(struct container *container)
{
	long timeout = number_of(container, "timeout");
	enum wish before = wish;

	current = container;
	if (!container_start(container)) {
		container->state = STATE_FAILED;
		read_output();
		return false;
	}
	tell("started", container);
	while (container->pid) {
		turn(timeout ? 50 : -1);
		if (wish != before)
			container_kill(container, SIGKILL);
		if (timeout && container->pid && now() - container->started > timeout) {
			snprintf(container->failure, sizeof(container->failure), "it took longer than %ld ms", timeout);
			container_kill(container, SIGKILL);
			timeout = 0;
		}
	}
	container_read(container, show_line);
	container->state = container->status ? STATE_FAILED : STATE_ENDED;
	tell("ended", container);
	return !container->status;
}

static void report_failure(const struct container *container)
{
	char copy[TAIL + 1], *line, *rest = copy;

	snprintf(copy, sizeof(copy), "%s", container->tail);
	say("whit: ---- the boot stopped ----");
	if (*container->failure)
		say("whit: %s %s failed: %s", container->stage, container->name, container->failure);
	else
		say("whit: %s %s failed: it ended with %d after %lld ms", container->stage, container->name,
		    container->status, (long long)(now() - container->started));
	say("whit: %zu of %zu were run before it; no service was started", (size_t)(container - onboot), onboot_count);
	say("whit: the last that it printed:%s", *copy ? "" : " nothing");
	while ((line = strsep(&rest, "\n")))
		if (*line)
			say("whit:   %s", line);
	tell_text("failed", container, "output", container->tail);
	verdict = container->status > 0 ? container->status : CANNOT_RUN;
}

/* False: the machine is not what it was told to be, so nothing of it may run. */
static bool run_first_boot(void)
{
	char report[LONGEST] = "";
	enum first_boot done = first_boot(*plan_value("nocloud"), report, sizeof(report));

	if (done == FIRST_BOOT_NONE)
		return true;
	say("whit: first boot: %s", report);
	tell_text(done == FIRST_BOOT_DONE ? "first-boot" : "failed", NULL, "report", report);
	if (done == FIRST_BOOT_DONE)
		return true;
	say("whit: ---- the boot stopped: nothing was started ----");
	verdict = CANNOT_RUN;
	return false;
}

static bool run_onboot(void)
{
	for (size_t at = 0; at < onboot_count && !wish; at++)
		if (!run_to_end(onboot + at) && !wish) {
			report_failure(onboot + at);
			return false;
		}
	current = NULL;
	return true;
}

/* ---- services ---- */

static void tend_version(void)
{
	if (!slots_on_trial() || (!services_any_failed() && now() < TRIAL))
		return;
	say("whit: ---- the new version is not well: booting again ----");
	wish = WISH_REBOOT;
}

static void tell_when_up(void)
{
	if (!services_all_up())
		return;
	if (!services_any_failed())
		slots_commit();
	if (told_up)
		return;
	say("whit: the machine is up after %lld ms", (long long)now());
	tell("up", NULL);
	report_verdict("ready", -1);
	told_up = true;
}

static int pause_until(int longest)
{
	int pause = services_pause();

	return pause < 0 || pause > longest ? longest : pause;
}

static void run_services(void)
{
	while (!wish) {
		services_tend();
		tell_when_up();
		tend_version();
		turn(slots_on_trial() ? pause_until(REST) : services_pause());
	}
}

/* ---- the end ---- */

/* The last that was started first, each with the time that it has. */
static void stop_services(void)
{
	for (size_t at = service_count; at-- > 0;) {
		struct container *service = services + at;
		int64_t begun = now(), grace = number_of(service, "grace");

		if (!service->pid)
			continue;
		service_stop(service);
		while (service->pid) {
			turn(20);
			if (now() - begun > grace)
				container_kill(service, SIGKILL);
		}
	}
}

static void finish(bool failed)
{
	current = NULL;
	stop_services();
	for (size_t at = 0; at < onshutdown_count && !failed; at++)
		if (!run_to_end(onshutdown + at))
			say("whit: onshutdown %s failed: %s", onshutdown[at].name,
			    *onshutdown[at].failure ? onshutdown[at].failure : "it did not end with 0");
	tell("off", NULL);
	for (int tries = 0; report_wants_to_write() && tries < 100; tries++, usleep(10000))
		report_flush();
	report_verdict("exit", verdict);
	say("whit: %s", wish == WISH_REBOOT ? "reboot" : "power off");
	sync();
	reboot(wish == WISH_REBOOT ? RB_AUTOBOOT : RB_POWER_OFF);
}

/*
 * A machine whose boot failed answers on its port until it is told to end. It ends itself if it is run in the foreground,
 * or if the command line says so.
 */
static void wait_for_end(void)
{
	if (slots_on_trial())
		wish = WISH_REBOOT;
	else if (report_boot_port() >= 0 || kernel_option("whit.failed=poweroff"))
		wish = WISH_POWER_OFF;
	while (!wish)
		turn(-1);
}

int main(void)
{
	sigset_t heard;
	bool up;

	signal(SIGPIPE, SIG_IGN);
	sigfillset(&heard);
	sigprocmask(SIG_BLOCK, &heard, NULL);
	reboot(RB_DISABLE_CAD);
	signals = signalfd(-1, &heard, SFD_NONBLOCK | SFD_CLOEXEC);
	umask(022);
	if (!set_up()) {
		say("whit: ---- the boot stopped: the machine has no root ----");
		/* A version of two is none without it. */
		reboot(system_has_versions() ? RB_AUTOBOOT : RB_POWER_OFF);
	}
	up = run_first_boot() && run_onboot();
	if (up)
		run_services();
	else
		wait_for_end();
	finish(!up);
	return 0;
}
