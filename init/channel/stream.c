/* SPDX-License-Identifier: Apache-2.0 */
#include "channel/stream.h"

#include <errno.h>
#include <unistd.h>

struct source source_of(int fd, enum frame_type type)
{
	if (fd >= 0)
		set_nonblocking(fd);
	return (struct source){ .fd = fd, .credit = WINDOW, .type = type };
}

struct sink sink_of(int fd, enum frame_type type)
{
	if (fd >= 0)
		set_nonblocking(fd);
	return (struct sink){ .fd = fd, .type = type };
}

bool source_pump(struct source *source, struct link *link, uint32_t channel)
{
	char piece[LARGEST];
	size_t most;
	ssize_t size;

	while (wants_to_read(source)) {
		most = source->credit < sizeof(piece) ? source->credit : sizeof(piece);
		size = read(source->fd, piece, most);
		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0 && errno == EAGAIN)
			return false;
		if (size <= 0) { /* a terminal that nobody has open any more fails with EIO */
			close(source->fd);
			source->fd = -1;
			link_send(link, channel, source->type, NULL, 0);
			return false;
		}
		source->credit -= size;
		link_send(link, channel, source->type, piece, size);
	}
	return source->fd >= 0;
}

void source_taken(struct source *source, const struct taken *taken)
{
	if (taken->stream == source->type)
		source->credit += taken->bytes;
}

void sink_receive(struct sink *sink, struct link *link, uint32_t channel, const char *bytes, size_t length)
{
	if (!length)
		sink->ended = true;
	else
		buffer_add(&sink->waiting, bytes, length);
	sink_flush(sink, link, channel);
}

static void take(struct sink *sink, struct link *link, uint32_t channel, size_t size)
{
	struct taken taken = { .stream = sink->type, .bytes = size };

	buffer_drop(&sink->waiting, size);
	link_send(link, channel, FRAME_TAKEN, &taken, sizeof(taken));
}

void sink_flush(struct sink *sink, struct link *link, uint32_t channel)
{
	while (sink->waiting.used) {
		ssize_t size = sink->fd < 0 ? (ssize_t)sink->waiting.used
					    : write(sink->fd, sink->waiting.bytes, sink->waiting.used);

		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0 && errno == EAGAIN)
			return;
		/* Nobody reads any more: it goes nowhere, as with a broken pipe. */
		take(sink, link, channel, size < 0 ? sink->waiting.used : (size_t)size);
	}
	if (sink->ended && sink->fd >= 0) {
		close(sink->fd);
		sink->fd = -1;
	}
}
