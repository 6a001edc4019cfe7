/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a machine tells: lines for people on the console; one JSON object a line on the virtio-serial port
 * "whit.machine", which also takes commands, one a line (supervisor.c); and on "whit.boot", for whoever runs it in the
 * foreground, "ready" and at the end "exit STATUS". "stop" asks it to power off.
 */
#ifndef WHIT_REPORT_H
#define WHIT_REPORT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include "supervisor/container.h"

/* After /sys and /dev are there. Without the ports, the console is all there is. */
void report_open(void);
int report_port(void);
/* -1: nobody runs it in the foreground. */
int report_boot_port(void);
void report_verdict(const char *word, int status);
bool report_wants_to_write(void);
void report_flush(void);
/* Commands that came, without the end of the line. */
void report_receive(void (*command)(char *line));

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* {"event": EVENT, "stage": …, "name": …, "state": …, "status": …, "restarts": …} */
void tell(const char *event, const struct container *container);
/* The same with one text more. */
void tell_text(const char *event, const struct container *container, const char *key, const char *text);

#endif
