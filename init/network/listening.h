/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WHIT_LISTENING_H
#define WHIT_LISTENING_H

#include <stdbool.h>
#include <sys/types.h>

/* Whether something listens at the TCP port in the network of this process. */
bool is_listening(pid_t pid, unsigned port);

#endif
