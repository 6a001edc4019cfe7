/* SPDX-License-Identifier: Apache-2.0 */
/* The power button (ACPI), which is how a hypervisor asks a machine to end. */
#ifndef WHIT_BUTTON_H
#define WHIT_BUTTON_H

#include <poll.h>
#include <stdbool.h>

/* After /sys and /dev are there. Without a button there is nothing to wait for. */
void button_open(void);
void button_poll(struct pollfd *poll);
/* Whether it was pressed since. */
bool button_pressed(const struct pollfd *poll);

#endif
