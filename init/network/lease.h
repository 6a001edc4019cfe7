/* SPDX-License-Identifier: Apache-2.0 */
/* An IPv4 address from the network (DHCP, RFC 2131), for guests that nobody gives one. */
#ifndef WHIT_LEASE_H
#define WHIT_LEASE_H

#include <stdbool.h>

/*
 * Ask for an address on the interface, set it with its route and write `resolv` (resolv.conf(5)); a child process keeps
 * it as long as the machine runs. False: nobody gave one in time, and the child goes on asking.
 */
bool lease_start(const char *interface, const char *resolv);

#endif
