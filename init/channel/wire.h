/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two sides of a machine say to each other over one byte stream (a virtio-serial port, a Unix socket): frames,
 * each of them of one channel. Channel 0 is the instance's own process, every other one a command that was added.
 *
 * A side sends no more than WINDOW bytes of a stream before the other has taken some of them (FRAME_TAKEN): so one
 * command that nobody listens to holds up nobody else, and no buffer grows without end.
 */
#ifndef WHIT_WIRE_H
#define WHIT_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum frame_type {
	FRAME_READY = 1, /* from the guest: it has booted */
	FRAME_SETUP,	 /* records (records.h) of what the guest is to be */
	FRAME_START,	 /* records of a process; it is the channel's from now on */
	FRAME_INPUT,	 /* standard input; none is its end */
	FRAME_OUTPUT,	 /* standard output, or what the terminal shows; none is its end */
	FRAME_ERRORS,	 /* standard error; none is its end */
	FRAME_TAKEN,	 /* struct taken */
	FRAME_SIGNAL,	 /* uint32_t: its number */
	FRAME_RESIZE,	 /* struct size: of the terminal */
	FRAME_EXIT,	 /* uint32_t: exit status, 128 + signal; the channel's last frame */
	FRAME_CLOSE,	 /* nobody listens any more: end the process */
	FRAME_MEMORY,	 /* from the guest, before the instance's exit: its kernel has killed for memory */
	FRAME_LISTENERS, /* where somebody listens in the guest? Answered by the same, with tables as listeners.c prints them */
	FRAME_BEGIN,	 /* to `machine wait`: let the instance's process start. Answered by the same */
	FRAME_PAUSE,	 /* stand still, with everything written; answered by the same, then nothing is sent */
	FRAME_RESUME,	 /* records (restored.h): go on. Answered by the same; its uint32_t is 0 if something was not done */
};

struct frame {
	uint32_t channel;
	uint32_t type;
	uint32_t length;
};

struct taken {
	uint32_t stream; /* FRAME_INPUT, FRAME_OUTPUT or FRAME_ERRORS */
	uint32_t bytes;
};

struct size {
	uint16_t rows;
	uint16_t columns;
};

#define WINDOW (256u * 1024)
#define LARGEST (64u * 1024) /* payload of one frame; descriptions of processes may need more of them */

struct buffer {
	char *bytes;
	size_t used;
	size_t room;
};

void buffer_add(struct buffer *buffer, const void *bytes, size_t length);
void buffer_drop(struct buffer *buffer, size_t length);

/* One end of the byte stream; the descriptor does not block. */
struct link {
	int fd;
	struct buffer in;
	struct buffer out;
};

typedef void (*frame_handler)(void *context, const struct frame *frame, const char *payload);

void link_send(struct link *link, uint32_t channel, enum frame_type type, const void *payload, size_t length);
/* Read what there is and hand over whole frames. False: the other side has gone, or talks nonsense. */
bool link_receive(struct link *link, frame_handler handler, void *context);
/* Write what can be written. False: the other side has gone. */
bool link_flush(struct link *link);

void set_nonblocking(int fd);

#endif
