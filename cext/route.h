/* Where would the kernel route a packet to this address? The half of the dial guard that asks it (rtnetlink(7)).
 *
 * Blocks for the time of a system call, or ROUTE_PATIENCE where an answer is lost. A descriptor has one user at a time.
 */
#ifndef PYINTERCEPTOR_ROUTE_H
#define PYINTERCEPTOR_ROUTE_H

#include "addresses.h"

#define ROUTE_PATIENCE 200        /* milliseconds: the kernel answers before send(2) returns, so an answer that isn't there is lost */

enum route {
	ROUTE_UNKNOWN = 0,        /* no answer, or one that can't be trusted */
	ROUTE_UNICAST = 1,        /* to another host */
	ROUTE_OTHER = 2,          /* the host's own address, a broadcast, … */
	ROUTE_NONE = 3            /* the kernel answered that there is none: ENETUNREACH or EHOSTUNREACH */
};

/* A netlink socket that takes messages from the kernel alone, or -1 with errno. */
int route_open(void);

/* Asks on a socket of route_open() for the route from the calling thread's network namespace. */
enum route route_to(int netlink, const struct endpoint *to);

/* 1 if the calling thread's namespace has a route to public addresses of the family (AF_INET, AF_INET6). */
int relay_has_route(int family);

#endif
