/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of a declared machine. It runs the containers of `onboot` one after the other and stops with a
 * report at the first that fails, keeps the services running, and at the end runs those of `onshutdown` and powers off.
 * There is no shell: /containers/plan says what there is (records: dhcp, volume, onboot, service, onshutdown), and
 * each container's directory how it is run (container.h).
 *
 * A machine with two versions (slots.h) keeps the one that it runs once that is up. One on trial whose onboot fails, whose
 * services fail or are not ready in time, boots again, until the other has its turn.
 *
 * Commands on the port: status, logs NAME, follow, start NAME, stop NAME, poweroff, reboot. Signals as busybox's
 * poweroff and reboot send them: SIGUSR2 and SIGPWR power off, SIGTERM and SIGINT reboot.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "button.h"
#include "container.h"
#include "debug.h"
#include "first_boot.h"
#include "lease.h"
#include "place.h"
#include "records.h"
#include "report.h"
#include "root.h"
#include "setup.h"
#include "slots.h"
#include "upgrade.h"

#define MOST 256
#define PLAN "/containers/plan"
#define VOLUMES "/containers/volumes"
#define WRITABLE "/run/whit/writable/volumes"
#define KEPT "/var/lib/whit/volumes"
#define ROOT "/root"
#define SHORTEST_PAUSE 100 /* milliseconds before a service is started again, doubled each time */
#define LONGEST_PAUSE 10000
#define LONG_RUN 10000 /* after which a service begins anew with the shortest */
#define CANNOT_RUN 125
#define REST 500
#define TRIAL 120000 /* in which a new version has to be up */
#define MOST_LINES 200 /* of one container, on the console, in a second */
#define SAFE (MS_NOSUID | MS_NODEV)

enum wish { WISH_RUN, WISH_POWER_OFF, WISH_REBOOT };

static struct container *onboot, *services, *onshutdown;
static size_t onboot_count, service_count, onshutdown_count;
static struct container *current; /* that of onboot or onshutdown */
static enum wish wish;
static bool following, told_up;
static int signals, verdict;
static char form[1 << 16], plan[1 << 16], command_line[4096];
static size_t form_length, plan_length;

static bool from_environment(const char *option)
{
	const char *found = strstr(command_line, option);

	return found && (found == command_line || found[-1] == ' ');
}

/* ---- the machine ---- */

static void read_text(const char *path, char *text, size_t size, size_t *length)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t found = file >= 0 ? read(file, text, size - 1) : -1;

	*length = found > 0 ? found : 0;
	text[*length] = 0;
	if (file >= 0)
		close(file);
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

	while ((value = next_record(plan, plan_length, "volume", &position))) {
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
	const char *interface = record(plan, plan_length, "dhcp", "");

	if (*interface && !lease_start(interface, "/etc/resolv.conf"))
		say("whit: nobody gave %s an address yet; it goes on asking", interface);
}

static struct container *open_stage(const char *stage, const char *key, size_t *count)
{
	const char *position = NULL, *value;
	struct container *found = calloc(MOST, sizeof(*found));

	while (*count < MOST && (value = next_record(plan, plan_length, key, &position)))
		*count += container_open(found + *count, stage, value);
	return found;
}

static bool set_up(void)
{
	size_t length;

	setup_kernel();
	upgrade_serve();
	read_text("/system", form, sizeof(form), &form_length);
	if (!enter_root())
		return false;
	read_text("/proc/cmdline", command_line, sizeof(command_line), &length);
	mount_system();
	report_open();
	button_open();
	raise_loopback();
	read_text(PLAN, plan, sizeof(plan), &plan_length);
	mount_volumes();
	ask_for_address();
	onboot = open_stage("onboot", "onboot", &onboot_count);
	services = open_stage("services", "service", &service_count);
	onshutdown = open_stage("onshutdown", "onshutdown", &onshutdown_count);
	return true;
}

/* ---- one turn of the loop ---- */

static struct container *by_name(const char *name)
{
	for (size_t at = 0; at < service_count; at++)
		if (!strcmp(services[at].name, name))
			return services + at;
	return NULL;
}

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

static void stop_service(struct container *service)
{
	service->again = INT64_MAX;
	if (!service->pid)
		service->state = STATE_STOPPED;
	container_kill(service, SIGTERM);
}

static void obey(char *line)
{
	char *word[2];
	struct container *service;

	split(line, ' ', word, 2);
	service = by_name(word[1]);
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
		stop_service(service);
	else if (!strcmp(word[0], "start") && service && !service->pid)
		service->state = STATE_WAITING, service->again = 0;
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

/* What becomes of a service that has ended. */
static void settle_service(struct container *service)
{
	const char *restart = record(service->records, service->length, "restart", "on-failure");
	bool failed = service->status != 0;
	int64_t pause = SHORTEST_PAUSE;

	service->state = failed ? STATE_FAILED : STATE_ENDED;
	if (service->again == INT64_MAX || wish)
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
				settle_service(services + at);
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
	struct pollfd polls[MOST + 7];
	size_t count = 6;
	short writing = report_wants_to_write() ? POLLOUT : 0;

	polls[0] = port_to_poll(report_port(), rest_until[0], POLLIN | writing, &timeout);
	polls[1] = port_to_poll(report_boot_port(), rest_until[1], POLLIN, &timeout);
	polls[2] = (struct pollfd){ .fd = signals, .events = POLLIN };
	button_poll(polls + 5);
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
	enum first_boot done = first_boot(report, sizeof(report));

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

static bool may_start(const struct container *service)
{
	const char *position = NULL, *name;

	if (now() < service->again)
		return false;
	while ((name = next_record(service->records, service->length, "after", &position))) {
		const struct container *other = by_name(name);

		if (other && other->state != STATE_READY && other->state != STATE_ENDED)
			return false;
	}
	return true;
}

static void tend(struct container *service)
{
	long patience = number_of(service, "ready-timeout");

	if (service->state == STATE_WAITING && may_start(service)) {
		if (container_start(service)) {
			tell("started", service);
		} else {
			say("whit: %s was not started: %s", service->name, service->failure);
			service->status = CANNOT_RUN;
			settle_service(service);
		}
	}
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

/* Milliseconds until something has to be done that nobody tells; -1 for ever. */
static int until_next(void)
{
	int pause = -1;

	for (size_t at = 0; at < service_count; at++) {
		const struct container *one = services + at;
		int64_t left = one->state == STATE_WAITING ? one->again - now() : 20;

		if (one->state != STATE_WAITING && one->state != STATE_RUNNING)
			continue;
		left = left < 0 ? 0 : left;
		/* Those that wait for others are looked at when these change, which they tell. */
		if (one->state == STATE_WAITING && !left)
			left = 20;
		if (pause < 0 || left < pause)
			pause = left;
	}
	return pause;
}

/* A service that ended and is not started again has to have ended well. */
static bool any_failed(void)
{
	for (size_t at = 0; at < service_count; at++)
		if (services[at].state == STATE_FAILED && services[at].status)
			return true;
	return false;
}

static void tend_version(void)
{
	if (!slots_on_trial() || (!any_failed() && now() < TRIAL))
		return;
	say("whit: ---- the new version is not well: booting again ----");
	wish = WISH_REBOOT;
}

static void tell_when_up(void)
{
	for (size_t at = 0; at < service_count; at++)
		if (!services[at].was_ready &&
		    (services[at].state == STATE_WAITING || services[at].state == STATE_RUNNING))
			return;
	if (!any_failed())
		slots_commit();
	if (!told_up)
		say("whit: the machine is up after %lld ms", (long long)now());
	if (!told_up)
		tell("up", NULL);
	if (!told_up)
		report_verdict("ready", -1);
	told_up = true;
}

static int until_next_or(int pause)
{
	int next = until_next();

	return next < 0 || next > pause ? pause : next;
}

static void run_services(void)
{
	while (!wish) {
		for (size_t at = 0; at < service_count; at++)
			tend(services + at);
		tell_when_up();
		tend_version();
		turn(slots_on_trial() ? until_next_or(REST) : until_next());
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
		stop_service(service);
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
	else if (report_boot_port() >= 0 || from_environment("whit.failed=poweroff"))
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
		reboot(strcmp(record(form, form_length, "root", ""), "verity") ? RB_POWER_OFF : RB_AUTOBOOT);
	}
	up = run_first_boot() && run_onboot();
	if (up)
		run_services();
	else
		wait_for_end();
	finish(!up);
	return 0;
}
