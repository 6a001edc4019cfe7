/* SPDX-License-Identifier: Apache-2.0 */
/* Of HTTP/1.1 (RFC 9112) no more than one request on a connection. Whoever is slow gives way to who comes. */
#include "supervisor/http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel/wire.h"
#include "supervisor/json.h"
#include "supervisor/report.h"

#define MOST (HTTP_POLLS - 1)
#define LONGEST 2048
#define LOGS "/v1/logs/"

struct client {
	bool used;
	int fd;
	int64_t since;
	char request[LONGEST];
	size_t length;
	struct buffer answer;
};

static int listening = -1;
static struct client clients[MOST];

/* IPv4 too, or alone where the kernel has no other. */
static int listen_at(int family, int port)
{
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr *address = family == AF_INET6 ? (struct sockaddr *)&six : (struct sockaddr *)&four;
	socklen_t size = family == AF_INET6 ? sizeof(six) : sizeof(four);
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1, off = 0;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (!bind(fd, address, size) && !listen(fd, MOST))
		return fd;
	close(fd);
	return -1;
}

void http_open(const char *port)
{
	if (!*port)
		return;
	listening = listen_at(AF_INET6, atoi(port));
	if (listening < 0)
		listening = listen_at(AF_INET, atoi(port));
	if (listening < 0)
		say("whit: nobody can ask for the status at port %s: %m", port);
}

void http_polls(struct pollfd *polls)
{
	polls[0] = (struct pollfd){ .fd = listening, .events = POLLIN };
	for (int at = 0; at < MOST; at++) {
		const struct client *one = clients + at;

		polls[at + 1] = (struct pollfd){ .fd = one->used ? one->fd : -1,
						 .events = one->answer.used ? POLLOUT : POLLIN };
	}
}

static void forget(struct client *client)
{
	close(client->fd);
	free(client->answer.bytes);
	memset(client, 0, sizeof(*client));
}

static void take_client(void)
{
	int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct client *place = clients;

	if (fd < 0)
		return;
	for (struct client *one = clients; one < clients + MOST; one++)
		if (place->used && (!one->used || one->since < place->since))
			place = one;
	if (place->used)
		forget(place);
	place->used = true;
	place->fd = fd;
	place->since = now();
}

static void answer(struct client *client, const char *status, const char *kind, const struct buffer *body)
{
	char head[256];

	snprintf(head, sizeof(head),
		 "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n"
		 "Connection: close\r\n\r\n",
		 status, kind, body->used);
	json_raw(&client->answer, head);
	buffer_add(&client->answer, body->bytes, body->used);
}

static void answer_text(struct client *client, const char *status, const char *text)
{
	struct buffer body = {};

	json_raw(&body, text);
	answer(client, status, "text/plain; charset=utf-8", &body);
	free(body.bytes);
}

static void add_all(struct buffer *body, const struct container *containers, size_t count)
{
	for (size_t at = 0; at < count; at++) {
		json_raw(body, body->bytes[body->used - 1] == '[' ? "{" : ", {");
		json_container(body, containers + at);
		json_raw(body, "}");
	}
}

static void answer_status(struct client *client, const struct overview *overview)
{
	struct buffer body = {};

	json_raw(&body, "{");
	json_truth(&body, "up", overview->up);
	json_number(&body, "at", now());
	json_raw(&body, ", \"containers\": [");
	add_all(&body, overview->onboot, overview->onboot_count);
	add_all(&body, overview->services, overview->service_count);
	json_raw(&body, "]}\n");
	answer(client, "200 OK", "application/json", &body);
	free(body.bytes);
}

static const struct container *named(const struct container *containers, size_t count, const char *name)
{
	for (size_t at = 0; at < count; at++)
		if (!strcmp(containers[at].name, name))
			return containers + at;
	return NULL;
}

static void answer_logs(struct client *client, const struct overview *overview, const char *name)
{
	const struct container *found = named(overview->services, overview->service_count, name);

	if (!found)
		found = named(overview->onboot, overview->onboot_count, name);
	if (found)
		answer_text(client, "200 OK", found->tail);
	else
		answer_text(client, "404 Not Found", "no container of onboot or services has this name\n");
}

static void obey(struct client *client, const struct overview *overview)
{
	char method[8] = "", path[256] = "";

	if (sscanf(client->request, "%7s %255s HTTP/1.", method, path) != 2)
		answer_text(client, "400 Bad Request", "this is no HTTP\n");
	else if (strcmp(method, "GET"))
		answer_text(client, "405 Method Not Allowed\r\nAllow: GET", "it can be read only\n");
	else if (!strcmp(path, "/v1/status"))
		answer_status(client, overview);
	else if (!strncmp(path, LOGS, strlen(LOGS)))
		answer_logs(client, overview, path + strlen(LOGS));
	else
		answer_text(client, "404 Not Found", "there are /v1/status and /v1/logs/NAME\n");
}

static void hear(struct client *client, const struct overview *overview)
{
	ssize_t size = read(client->fd, client->request + client->length, LONGEST - 1 - client->length);

	if (size <= 0) {
		forget(client);
		return;
	}
	client->length += size;
	client->request[client->length] = 0;
	if (strstr(client->request, "\r\n\r\n"))
		obey(client, overview);
	else if (client->length == LONGEST - 1)
		answer_text(client, "431 Request Header Fields Too Large", "ask for less\n");
}

static void tell_client(struct client *client)
{
	/* Whoever has gone must not end the machine; SIGPIPE is ignored. */
	ssize_t size = write(client->fd, client->answer.bytes, client->answer.used);

	if (size > 0)
		buffer_drop(&client->answer, size);
	if (size <= 0 || !client->answer.used)
		forget(client);
}

void http_turn(const struct pollfd *polls, const struct overview *overview)
{
	for (int at = 0; at < MOST; at++) {
		if (!polls[at + 1].revents)
			continue;
		if (clients[at].answer.used)
			tell_client(clients + at);
		else
			hear(clients + at, overview);
	}
	if (polls[0].revents)
		take_client();
}
