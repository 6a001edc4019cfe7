/* SPDX-License-Identifier: Apache-2.0 */
#include "channel/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE 65536
#define LARGEST_FRAME (4u << 20) /* a description of a process: arguments and environment of any size that exec takes */

void buffer_add(struct buffer *buffer, const void *bytes, size_t length)
{
	if (buffer->used + length > buffer->room) {
		buffer->room = (buffer->used + length) * 2;
		buffer->bytes = realloc(buffer->bytes, buffer->room);
		if (!buffer->bytes) {
			fprintf(stderr, "whit: out of memory\n");
			_exit(125);
		}
	}
	memcpy(buffer->bytes + buffer->used, bytes, length);
	buffer->used += length;
}

void buffer_drop(struct buffer *buffer, size_t length)
{
	buffer->used -= length;
	memmove(buffer->bytes, buffer->bytes + length, buffer->used);
}

void link_send(struct link *link, uint32_t channel, enum frame_type type, const void *payload, size_t length)
{
	struct frame frame = { .channel = channel, .type = type, .length = length };

	buffer_add(&link->out, &frame, sizeof(frame));
	if (length)
		buffer_add(&link->out, payload, length);
}

static bool hand_over(struct link *link, frame_handler handler, void *context)
{
	struct frame frame;
	size_t done = 0;

	while (link->in.used - done >= sizeof(frame)) {
		memcpy(&frame, link->in.bytes + done, sizeof(frame));
		if (frame.length > LARGEST_FRAME)
			return false;
		if (link->in.used - done < sizeof(frame) + frame.length)
			break;
		handler(context, &frame, link->in.bytes + done + sizeof(frame));
		done += sizeof(frame) + frame.length;
	}
	if (done)
		buffer_drop(&link->in, done);
	return true;
}

bool link_receive(struct link *link, frame_handler handler, void *context)
{
	char piece[PIECE];

	for (;;) {
		ssize_t size = read(link->fd, piece, sizeof(piece));

		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			return errno == EAGAIN;
		if (size == 0)
			return false;
		buffer_add(&link->in, piece, size);
		if (!hand_over(link, handler, context))
			return false;
	}
}

bool link_flush(struct link *link)
{
	while (link->out.used) {
		ssize_t size = write(link->fd, link->out.bytes, link->out.used);

		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			return errno == EAGAIN;
		buffer_drop(&link->out, size);
	}
	return true;
}

void set_nonblocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}
