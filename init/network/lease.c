/* SPDX-License-Identifier: Apache-2.0 */
#include "network/lease.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define SERVER_PORT 67
#define CLIENT_PORT 68
#define REQUEST 1
#define REPLY 2
#define ETHERNET 1
#define COOKIE 0x63825363u
#define SHORTEST_WAIT 200 /* milliseconds for an answer, doubled each time */
#define LONGEST_WAIT 8000
#define PATIENCE 5000 /* milliseconds before the machine goes on without an address */

enum message { DISCOVER = 1, OFFER = 2, ASK = 3, GIVEN = 5, REFUSED = 6 };
enum option { MASK = 1, ROUTER = 3, RESOLVER = 6, WANTED = 50, SECONDS = 51, KIND = 53, SERVER = 54, PARAMETERS = 55 };

/* RFC 2131, figure 1. */
struct packet {
	uint8_t operation, hardware, length, hops;
	uint32_t transaction;
	uint16_t elapsed, flags;
	uint32_t client, yours, next, relay;
	uint8_t address[16], name[64], file[128];
	uint32_t cookie;
	uint8_t options[312];
} __attribute__((packed));

struct lease {
	uint32_t address, mask, router, server; /* in the order of the network */
	uint32_t resolvers[3];
	uint32_t seconds;
};

static char interface_[IFNAMSIZ];
static uint8_t hardware[6];

static struct ifreq named(void)
{
	struct ifreq request = {};

	memcpy(request.ifr_name, interface_, sizeof(interface_));
	return request;
}

static int open_socket(void)
{
	int yes = 1, sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(CLIENT_PORT) };

	setsockopt(sock, SOL_SOCKET, SO_BROADCAST, &yes, sizeof(yes));
	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (setsockopt(sock, SOL_SOCKET, SO_BINDTODEVICE, interface_, strlen(interface_) + 1) ||
	    bind(sock, (struct sockaddr *)&here, sizeof(here))) {
		close(sock);
		return -1;
	}
	return sock;
}

static bool raise_link(int sock)
{
	struct ifreq request = named();

	if (ioctl(sock, SIOCGIFHWADDR, &request))
		return false;
	memcpy(hardware, request.ifr_hwaddr.sa_data, sizeof(hardware));
	if (ioctl(sock, SIOCGIFFLAGS, &request))
		return false;
	request.ifr_flags |= IFF_UP;
	return !ioctl(sock, SIOCSIFFLAGS, &request);
}

static uint8_t *put(uint8_t *at, enum option option, const void *value, uint8_t length)
{
	at[0] = option;
	at[1] = length;
	memcpy(at + 2, value, length);
	return at + 2 + length;
}

static void send_message(int sock, uint32_t transaction, enum message kind, const struct lease *lease)
{
	static const uint8_t parameters[] = { MASK, ROUTER, RESOLVER, SECONDS };
	struct sockaddr_in everyone = { .sin_family = AF_INET,
					.sin_port = htons(SERVER_PORT),
					.sin_addr.s_addr = INADDR_BROADCAST };
	struct packet packet = { .operation = REQUEST,
				 .hardware = ETHERNET,
				 .length = sizeof(hardware),
				 .transaction = transaction,
				 .flags = htons(0x8000), /* answer to everybody: there is no address yet */
				 .cookie = htonl(COOKIE) };
	uint8_t *at = packet.options, number = kind;

	memcpy(packet.address, hardware, sizeof(hardware));
	at = put(at, KIND, &number, 1);
	if (kind == ASK) {
		at = put(at, WANTED, &lease->address, 4);
		if (lease->server)
			at = put(at, SERVER, &lease->server, 4);
	}
	at = put(at, PARAMETERS, parameters, sizeof(parameters));
	*at = 255;
	sendto(sock, &packet, sizeof(packet), 0, (struct sockaddr *)&everyone, sizeof(everyone));
}

static void take_option(struct lease *lease, enum message *kind, uint8_t option, const uint8_t *value, uint8_t length)
{
	if (option == KIND && length)
		*kind = *value;
	if (length < 4)
		return;
	if (option == MASK)
		memcpy(&lease->mask, value, 4);
	else if (option == ROUTER)
		memcpy(&lease->router, value, 4);
	else if (option == SERVER)
		memcpy(&lease->server, value, 4);
	else if (option == SECONDS)
		memcpy(&lease->seconds, value, 4);
	else if (option == RESOLVER)
		memcpy(lease->resolvers, value, length < sizeof(lease->resolvers) ? length & ~3 : sizeof(lease->resolvers));
}

/* The kind of a message that is for us, or 0. */
static enum message understand(const struct packet *packet, ssize_t size, uint32_t transaction, struct lease *lease)
{
	const uint8_t *at = packet->options, *end = (const uint8_t *)packet + size;
	enum message kind = 0;

	if (size < (ssize_t)offsetof(struct packet, options) || packet->operation != REPLY ||
	    packet->transaction != transaction || packet->cookie != htonl(COOKIE))
		return 0;
	*lease = (struct lease){ .address = packet->yours };
	while (at < end && *at != 255) {
		if (!*at) {
			at++;
			continue;
		}
		if (at + 2 > end || at + 2 + at[1] > end)
			break;
		take_option(lease, &kind, at[0], at + 2, at[1]);
		at += 2 + at[1];
	}
	return kind;
}

/* What was wanted, or what refuses it; 0 if none of both came in time. */
static enum message await(int sock, uint32_t transaction, enum message wanted, struct lease *lease, int wait)
{
	struct pollfd ready = { .fd = sock, .events = POLLIN };

	while (poll(&ready, 1, wait) > 0) {
		struct packet packet;
		struct lease found;
		ssize_t size = recv(sock, &packet, sizeof(packet), 0);
		enum message kind = understand(&packet, size, transaction, &found);

		if (kind == wanted)
			*lease = found;
		if (kind && (kind == wanted || kind == REFUSED))
			return kind;
	}
	return 0;
}

/* Two exchanges, or with an address of before only the second. */
static bool ask(int sock, struct lease *lease, int wait)
{
	uint32_t transaction;

	getrandom(&transaction, sizeof(transaction), GRND_NONBLOCK);
	if (!lease->address) {
		send_message(sock, transaction, DISCOVER, lease);
		if (await(sock, transaction, OFFER, lease, wait) != OFFER)
			return false;
	}
	send_message(sock, transaction, ASK, lease);
	switch (await(sock, transaction, GIVEN, lease, wait)) {
	case GIVEN:
		return true;
	case REFUSED:
		*lease = (struct lease){};
		return false;
	default:
		return false;
	}
}

static void set_address(int sock, unsigned long what, uint32_t address)
{
	struct ifreq request = named();
	struct sockaddr_in value = { .sin_family = AF_INET, .sin_addr.s_addr = address };

	memcpy(&request.ifr_addr, &value, sizeof(value));
	if (ioctl(sock, what, &request))
		fprintf(stderr, "whit: set an address of %s: %m\n", interface_);
}

static void write_resolvers(const struct lease *lease, const char *path)
{
	char text[256] = "", address[INET_ADDRSTRLEN];
	int file;

	for (int at = 0; at < 3 && lease->resolvers[at]; at++) {
		size_t used = strlen(text);

		inet_ntop(AF_INET, &lease->resolvers[at], address, sizeof(address));
		snprintf(text + used, sizeof(text) - used, "nameserver %s\n", address);
	}
	file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (file < 0 || write(file, text, strlen(text)) < 0)
		fprintf(stderr, "whit: write %s: %m\n", path);
	close(file);
}

static void use(int sock, const struct lease *lease, const char *resolv)
{
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
	struct sockaddr_in gateway = { .sin_family = AF_INET, .sin_addr.s_addr = lease->router };
	struct sockaddr_in everywhere = { .sin_family = AF_INET };

	set_address(sock, SIOCSIFADDR, lease->address);
	if (lease->mask)
		set_address(sock, SIOCSIFNETMASK, lease->mask);
	if (lease->router) {
		memcpy(&route.rt_dst, &everywhere, sizeof(everywhere));
		memcpy(&route.rt_genmask, &everywhere, sizeof(everywhere));
		memcpy(&route.rt_gateway, &gateway, sizeof(gateway));
		if (ioctl(sock, SIOCADDRT, &route) && errno != EEXIST)
			fprintf(stderr, "whit: set the route: %m\n");
	}
	write_resolvers(lease, resolv);
}

/* Asks again at half of the time that it was given. */
static _Noreturn void keep(int sock, struct lease *lease, const char *resolv, int wait)
{
	for (;;) {
		uint32_t seconds = ntohl(lease->seconds), before = lease->address;

		if (before)
			sleep(seconds == UINT32_MAX ? UINT32_MAX : seconds > 60 ? seconds / 2 : 30);
		while (!ask(sock, lease, wait))
			if (wait < LONGEST_WAIT)
				wait *= 2;
		wait = SHORTEST_WAIT;
		if (lease->address != before)
			use(sock, lease, resolv);
	}
}

bool lease_start(const char *interface, const char *resolv)
{
	struct lease lease = {};
	int sock, wait = SHORTEST_WAIT, waited = 0;
	bool done = false;

	snprintf(interface_, sizeof(interface_), "%s", interface);
	sock = open_socket();
	if (sock < 0 || !raise_link(sock)) {
		fprintf(stderr, "whit: use %s: %m\n", interface);
		close(sock);
		return false;
	}
	while (!(done = ask(sock, &lease, wait)) && waited < PATIENCE) {
		waited += wait;
		wait *= 2;
	}
	if (done)
		use(sock, &lease, resolv);
	else
		fprintf(stderr, "whit: nobody gave %s an address\n", interface);
	if (!fork())
		keep(sock, &lease, resolv, done ? SHORTEST_WAIT : wait);
	close(sock);
	return done;
}
