/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lightest HTTP/1.1 server and client that there can be, so that the way between them is most of what is timed.
 *
 *   http_load serve PORT                            prints "ready", answers until it is killed
 *   http_load keep ADDRESS PORT SECONDS SOCKETS     requests on connections that stay; prints how many, and seconds
 *   http_load new ADDRESS PORT SECONDS SOCKETS      a connection for each request, closed by the client
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define REQUEST "GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
#define REPLY "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n"

static int loop;

static int checked(int result, const char *what)
{
	if (result >= 0)
		return result;
	perror(what);
	exit(1);
}

static void watch(int socket, unsigned int events)
{
	struct epoll_event event = { .events = events, .data.fd = socket };

	checked(epoll_ctl(loop, EPOLL_CTL_ADD, socket, &event), "epoll_ctl");
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Requests and replies are short enough to come in one piece over a veth. */
static void answer(int client)
{
	char data[4096];

	if (read(client, data, sizeof(data)) <= 0) {
		close(client);
		return;
	}
	checked(write(client, REPLY, strlen(REPLY)), "write");
}

static void accept_all(int listener)
{
	int client, on = 1;

	while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		watch(client, EPOLLIN);
	}
}

static void serve(int port)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(port) };
	int listener = checked(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket");
	struct epoll_event events[BATCH];

	checked(bind(listener, (struct sockaddr *)&own, sizeof(own)), "bind");
	checked(listen(listener, 1024), "listen");
	watch(listener, EPOLLIN);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int count = checked(epoll_wait(loop, events, BATCH, -1), "epoll_wait");

		for (int at = 0; at < count; at++) {
			if (events[at].data.fd == listener)
				accept_all(listener);
			else
				answer(events[at].data.fd);
		}
	}
}

/* The request is sent when the connection stands, which the first event tells. */
static void begin(const struct sockaddr_in *server)
{
	int made = checked(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket"), on = 1;

	setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(made, (const struct sockaddr *)server, sizeof(*server)) < 0 && errno != EINPROGRESS)
		checked(-1, "connect");
	watch(made, EPOLLOUT);
}

static void ask(int made)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = made };

	checked(epoll_ctl(loop, EPOLL_CTL_MOD, made, &event), "epoll_ctl");
	checked(write(made, REQUEST, strlen(REQUEST)), "write");
}

static void take(int made)
{
	char data[4096];

	if (read(made, data, sizeof(data)) != (ssize_t)strlen(REPLY)) {
		fprintf(stderr, "not the reply: %s\n", strerror(errno));
		exit(1);
	}
}

static void load(const struct sockaddr_in *server, double seconds, int sockets, bool keep)
{
	double began = now(), until = began + seconds;
	struct epoll_event events[BATCH];
	long replies = 0;

	while (sockets--)
		begin(server);
	while (now() < until) {
		int count = checked(epoll_wait(loop, events, BATCH, 1000), "epoll_wait");

		for (int at = 0; at < count; at++) {
			int made = events[at].data.fd;

			if (!(events[at].events & EPOLLIN)) {
				ask(made);
				continue;
			}
			take(made);
			replies++;
			if (keep) {
				checked(write(made, REQUEST, strlen(REQUEST)), "write");
			} else {
				close(made);
				begin(server);
			}
		}
	}
	printf("%ld %f\n", replies, now() - began);
}

int main(int argc, char **argv)
{
	struct sockaddr_in server = { .sin_family = AF_INET };

	loop = checked(epoll_create1(0), "epoll_create1");
	if (argc == 3 && !strcmp(argv[1], "serve"))
		serve(atoi(argv[2]));
	if (argc != 6 || !inet_aton(argv[2], &server.sin_addr)) {
		fputs("see the head of http_load.c\n", stderr);
		return 2;
	}
	server.sin_port = htons(atoi(argv[3]));
	load(&server, atof(argv[4]), atoi(argv[5]), !strcmp(argv[1], "keep"));
	return 0;
}
