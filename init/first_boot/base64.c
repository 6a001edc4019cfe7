/* SPDX-License-Identifier: Apache-2.0 */
#include "first_boot/base64.h"

#include <stdint.h>
#include <string.h>

static int value_of(char letter)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *found = letter ? strchr(letters, letter) : NULL;

	return found ? found - letters : -1;
}

bool base64_decode(char *text, size_t *size)
{
	size_t letters = 0, padding = 0;
	uint32_t bits = 0;

	*size = 0;
	for (const char *letter = text; letter && *letter; letter++) {
		int value = value_of(*letter);

		if (strchr(" \t\r\n\v\f", *letter))
			continue;
		if (value < 0 && *letter != '=')
			return false;
		if (padding && value >= 0)
			return false;
		padding += value < 0;
		bits = bits << 6 | (value < 0 ? 0 : value);
		if (++letters % 4)
			continue;
		for (size_t byte = 0; byte < 3 - (padding < 3 ? padding : 2); byte++)
			text[(*size)++] = bits >> (16 - 8 * byte);
		bits = 0;
	}
	return letters % 4 == 0 && padding < 3;
}
