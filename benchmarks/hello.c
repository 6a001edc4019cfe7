/* SPDX-License-Identifier: Apache-2.0 */
/* The least that answers HTTP at port 8080. As the first process of a machine, the least that one can do: power off. */
#include <netinet/in.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

int main(void)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(8080) };
	int listening, yes = 1;

	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	listening = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listening, (struct sockaddr *)&here, sizeof(here)) || listen(listening, 16))
		return 1;
	for (;;) {
		char request[4096];
		int one = accept(listening, NULL, NULL);

		if (one < 0)
			continue;
		(void)!read(one, request, sizeof(request));
		(void)!write(one, answer, strlen(answer));
		close(one);
	}
}
