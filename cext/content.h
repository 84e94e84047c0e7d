/* Which requests' content could a server take for further requests?
 *
 * Pure. Some servers ignore the content of a method that usually has none, such as GET or DELETE, and read it as the next
 * request. A container could so send a request that no rule has decided, and leave an answer that nobody has asked for.
 */
#ifndef PYINTERCEPTOR_CONTENT_H
#define PYINTERCEPTOR_CONTENT_H

#include "frame.h"

#define CONTENT_METHODS_MAX 256 /* bytes of a list of methods, with its NUL */

/* Returns 1 if the request has content, and its method is neither POST, PUT, PATCH, QUERY, PROPFIND, REPORT or SEARCH nor
 * in the list `others`, which is separated by commas. Methods are compared with their case. `head` is the request's. */
int content_is_unusual(const struct frame *frame, const uint8_t *head, const char *others);

#endif
