/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads net.ipv4.ip_local_port_range, which holds for both families. Owns nothing; range.h names the callers.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "range.h"

#define RANGE "/proc/sys/net/ipv4/ip_local_port_range"
#define DEFAULT_FIRST 32768 /* the kernel's own range */
#define DEFAULT_LAST 60999

static int read_range(uint32_t *first, uint32_t *last)
{
	char text[64];
	int fd = open(RANGE, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	text[got > 0 ? got : 0] = 0;
	return sscanf(text, "%u %u", first, last) == 2 && 0 < *first && *first <= *last && *last <= UINT16_MAX;
}

void range_read(struct ports *ports, uint32_t total)
{
	uint32_t first, last;
	if (!read_range(&first, &last)) {
		first = DEFAULT_FIRST;
		last = DEFAULT_LAST;
	}
	uint32_t count = last - first + 1, part = total ? total : count * 3 / 4;
	ports_set(ports, first, part > count ? count : part ? part : 1);
}
