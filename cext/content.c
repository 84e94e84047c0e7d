/* SPDX-License-Identifier: Apache-2.0
 *
 * Compares a request's method with those that usually have content. Owns nothing; called by judge and passing.c.
 */
#include "content.h"
#include "slice.h"

static int is_listed(struct slice method, const char *list)
{
	struct slice rest = {(const uint8_t *)list, (uint32_t)strlen(list)}, name;
	while (next_member(&rest, &name))
		if (name.length == method.length && memcmp(name.at, method.at, name.length) == 0)
			return 1;
	return 0;
}

int content_is_unusual(const struct frame *frame, const uint8_t *head, const char *others)
{
	struct slice method = {head, frame->method_length};
	if (frame->body == BODY_NONE)
		return 0;
	return !is_listed(method, "POST,PUT,PATCH,QUERY,PROPFIND,REPORT,SEARCH") && !is_listed(method, others);
}
