/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's disk, for `whit upgrade` from outside: on the virtio-serial port "whit.upgrade", requests to read, write and
 * flush it. What is written where, and in which order, is decided outside (src/whit/image/disks/upgrade.py); here only
 * the first partition and the slot that does not run may be written, and only once the version that runs is proven.
 *
 * Numbers are little-endian. A request: magic, what, place (64 bits), size, zero; then what is to be written.
 * An answer: errno, size; then what was asked for.
 */
#ifndef WHIT_UPGRADE_H
#define WHIT_UPGRADE_H

/* Serves in a process of its own, which sees the machine as it is now. Without such a disk or port, it ends. */
void upgrade_serve(void);

#endif
