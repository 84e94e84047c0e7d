/* SPDX-License-Identifier: Apache-2.0
 *
 * Joins a policy's ruled addresses with a container's names. Owns nothing; standing.h names the callers.
 */
#include <string.h>

#include "standing.h"

enum standing standing_of(const void *table, struct names *names, const char *host, const struct endpoint *to)
{
	char canonical[HOST_MAX + 1];
	enum standing standing = policy_standing(table, to);
	if (standing == STANDING_FREE || !host || !host_canonical(host, (uint32_t)strlen(host), canonical))
		return standing;
	return names_gave(names, canonical, to->address) ? STANDING_FREE : standing;
}
