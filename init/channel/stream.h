/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two ends of one stream of a channel. A source reads a descriptor and sends; a sink receives and writes, and says
 * what it has taken. Descriptors are closed at the end of the stream, and -1 from then on.
 */
#ifndef WHIT_STREAM_H
#define WHIT_STREAM_H

#include "channel/wire.h"

struct source {
	int fd;
	uint32_t credit; /* how much may be sent before the other side takes some */
	enum frame_type type;
};

struct sink {
	int fd;
	struct buffer waiting;
	bool ended; /* nothing more comes: close when all is written */
	enum frame_type type;
};

struct source source_of(int fd, enum frame_type type);
struct sink sink_of(int fd, enum frame_type type);

static inline bool wants_to_read(const struct source *source)
{
	return source->fd >= 0 && source->credit > 0;
}

static inline bool wants_to_write(const struct sink *sink)
{
	return sink->fd >= 0 && (sink->waiting.used || sink->ended);
}

/* Send what can be read now. True: there may be more, once there is credit. False: nothing more at present, or ever. */
bool source_pump(struct source *source, struct link *link, uint32_t channel);
void source_taken(struct source *source, const struct taken *taken);

/* Take what came; none is the end. */
void sink_receive(struct sink *sink, struct link *link, uint32_t channel, const char *bytes, size_t length);
/* Write what can be written now. */
void sink_flush(struct sink *sink, struct link *link, uint32_t channel);

#endif
