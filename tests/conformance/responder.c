/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pod of the conformance tests: answers on every port and protocol named in its arguments (as 80/tcp 81/udp), over
 * IPv4 and IPv6, with its own name, $NAME or that of its host. Ends at once when it is told to. On SIGUSR1 it goes on,
 * but listens no more; on SIGUSR2 it does again.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORTS 16

static int listener(int port, int type, int protocol)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int off = 0, on = 1;
	int fd = socket(AF_INET6, type, protocol);

	if (fd < 0)
		err(1, "socket %d", port);
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (type == SOCK_DGRAM) {
		/* An answer has to leave from the address that was asked. */
		setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
	}
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)))
		err(1, "bind %d", port);
	if (type == SOCK_STREAM && listen(fd, 128))
		err(1, "listen %d", port);
	return fd;
}

static void answer_stream(int fd, const char *name)
{
	int peer = accept(fd, NULL, NULL);

	if (peer < 0)
		return;
	if (write(peer, name, strlen(name)) < 0 && errno != EPIPE)
		warn("write");
	close(peer);
}

static void answer_datagram(int fd, const char *name)
{
	char asked[1500], control[256];
	struct sockaddr_in6 peer;
	struct iovec in = { asked, sizeof(asked) }, out = { (void *)name, strlen(name) };
	struct msghdr message = {
		.msg_name = &peer, .msg_namelen = sizeof(peer), .msg_iov = &in, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};

	if (recvmsg(fd, &message, 0) < 0)
		return;
	message.msg_iov = &out;
	if (sendmsg(fd, &message, 0) < 0)
		warn("sendmsg");
}

static volatile sig_atomic_t told;

static void tell(int number)
{
	told = number;
}

static int opened(const char *wanted)
{
	int port = atoi(wanted);

	if (strstr(wanted, "/udp"))
		return listener(port, SOCK_DGRAM, 0);
	return listener(port, SOCK_STREAM, strstr(wanted, "/sctp") ? IPPROTO_SCTP : 0);
}

static void open_all(struct pollfd *fds, char **wanted, int count)
{
	for (int i = 0; i < count; i++)
		fds[i] = (struct pollfd){ opened(wanted[i]), POLLIN, 0 };
}

static void obey(struct pollfd *fds, char **wanted, int count)
{
	if (told == SIGUSR1) {
		for (int i = 0; i < count; i++) {
			close(fds[i].fd);
			fds[i].fd = -1;
		}
	} else {
		open_all(fds, wanted, count);
	}
	told = 0;
}

static void answer_all(const struct pollfd *fds, char **wanted, int count, const char *name)
{
	for (int i = 0; i < count; i++) {
		if (!(fds[i].revents & POLLIN))
			continue;
		if (strstr(wanted[i], "/udp"))
			answer_datagram(fds[i].fd, name);
		else
			answer_stream(fds[i].fd, name);
	}
}

int main(int count, char **wanted)
{
	char host[65] = "";
	const char *name = getenv("NAME");
	struct pollfd fds[PORTS];

	if (count < 2 || count > PORTS)
		errx(1, "give ports as 80/tcp");
	if (!name && !gethostname(host, sizeof(host) - 1))
		name = host;
	signal(SIGTERM, _exit);
	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGUSR1, &(struct sigaction){ .sa_handler = tell }, NULL);
	sigaction(SIGUSR2, &(struct sigaction){ .sa_handler = tell }, NULL);
	open_all(fds, wanted + 1, count - 1);
	for (;;) {
		if (poll(fds, count - 1, told ? 0 : -1) > 0)
			answer_all(fds, wanted + 1, count - 1, name);
		if (told)
			obey(fds, wanted + 1, count - 1);
	}
}
