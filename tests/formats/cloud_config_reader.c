/* SPDX-License-Identifier: Apache-2.0 */
/* Reads texts as a guest does: on standard input SIZE, user-data, SIZE, meta-data, again and again; on standard output
 * "1 SIZE" and entries, or "0 SIZE" and what is wrong. */
#include <stdio.h>
#include <stdlib.h>

#include "first_boot/cloud_config.h"

static char *next(void)
{
	size_t size;
	char *text;

	if (scanf("%zu", &size) != 1)
		exit(0);
	getchar();
	text = calloc(1, size + 1);
	if (fread(text, 1, size, stdin) != size)
		exit(1);
	return text;
}

int main(void)
{
	for (;;) {
		struct buffer entries = {};
		char error[512] = "", *user = next(), *meta = next();

		if (cloud_config_read(user, meta, &entries, error, sizeof(error))) {
			printf("1 %zu\n", entries.used);
			fwrite(entries.bytes, 1, entries.used, stdout);
		} else {
			printf("0 %zu\n%s", __builtin_strlen(error), error);
		}
		fflush(stdout);
	}
}
