/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/button.h"

#include <fcntl.h>
#include <glob.h>
#include <linux/input.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int button = -1;

static bool is_button(const char *path)
{
	char name[64] = "";
	FILE *file = fopen(path, "re");

	if (file && !fgets(name, sizeof(name), file))
		name[0] = 0;
	if (file)
		fclose(file);
	return !strcmp(name, "Power Button\n");
}

void button_open(void)
{
	glob_t found;
	char path[64];
	int number;

	if (glob("/sys/class/input/event*/device/name", 0, NULL, &found))
		return;
	for (size_t at = 0; at < found.gl_pathc && button < 0; at++)
		if (is_button(found.gl_pathv[at]) && sscanf(found.gl_pathv[at], "/sys/class/input/event%d", &number) == 1) {
			snprintf(path, sizeof(path), "/dev/input/event%d", number);
			button = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		}
	globfree(&found);
}

void button_poll(struct pollfd *poll)
{
	*poll = (struct pollfd){ .fd = button, .events = POLLIN };
}

bool button_pressed(const struct pollfd *poll)
{
	struct input_event event;
	bool pressed = false;

	while (poll->revents & POLLIN && read(button, &event, sizeof(event)) == sizeof(event))
		pressed |= event.type == EV_KEY && event.code == KEY_POWER && event.value == 1;
	return pressed;
}
