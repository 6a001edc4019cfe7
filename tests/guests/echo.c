/* The first process of a guest: answers one line on the port "talk", then waits for the power to be cut. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <sys/syscall.h>

static void load_modules(void)
{
	char line[256];
	FILE *list = fopen("/modules", "r");

	while (list && fgets(line, sizeof(line), list)) {
		line[sizeof(line) - 1] = 0;
		for (char *end = line; *end; end++)
			if (*end == '\n')
				*end = 0;
		int file = open(line, O_RDONLY);
		if (file < 0 || syscall(SYS_finit_module, file, "", 0))
			printf("no module %s\n", line);
		close(file);
	}
}

static int talk(void)
{
	for (int tries = 0; tries < 500; tries++) {
		int port = open("/dev/vport1p1", O_RDWR);
		if (port >= 0)
			return port;
		usleep(10000);
	}
	return -1;
}

int main(void)
{
	char line[64];
	int port;

	mount("dev", "/dev", "devtmpfs", 0, "");
	load_modules();
	port = talk();
	printf("port %d\n", port);
	write(port, "ready\n", 6);
	for (;;) {
		ssize_t size = read(port, line, sizeof(line));
		if (size > 0)
			write(port, line, size);
		else
			usleep(10000);
	}
}
