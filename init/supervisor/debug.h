/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A shell from outside: a machine has none. Over the virtio-serial port "whit.debug", which only whoever runs the
 * machine can give it, come the line "ROWS COLUMNS SIZE", SIZE bytes of a static program, and then what is typed; back
 * goes what its terminal shows. It runs as `sh` with all rights, in the machine itself, until the other end hangs up.
 */
#ifndef WHIT_DEBUG_H
#define WHIT_DEBUG_H

#include <poll.h>
#include <stdbool.h>
#include <sys/types.h>

void debug_use(int port);
/* Two descriptors to wait for. True: nobody is there, and that has to be looked at again. */
bool debug_polls(struct pollfd *polls);
void debug_turn(const struct pollfd *polls);
/* A child has ended; it may have been the shell. */
void debug_ended(pid_t pid);

#endif
