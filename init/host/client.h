/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WHIT_CLIENT_H
#define WHIT_CLIENT_H

/* Have a process of these records run in the guest behind `socket`; returns its exit status. */
int run_client(const char *socket, char **records);

#endif
