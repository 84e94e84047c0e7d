/* Asks the kernel for the route to an address (rtnetlink(7)), for the dial guard.
 *
 * Blocks for a system call, or for ROUTE_PATIENCE if the answer is lost. Only one thread may use a socket at a time.
 * Called by dial.c, container.c and thread.c; relay_has_route() by Python.
 */
#ifndef PYINTERCEPTOR_ROUTE_H
#define PYINTERCEPTOR_ROUTE_H

#include "addresses.h"

#define ROUTE_PATIENCE 200 /* milliseconds; the kernel answers before send(2) returns: a late answer is a lost one */

enum route {
	ROUTE_UNKNOWN = 0,        /* no answer, or an invalid one */
	ROUTE_UNICAST = 1,        /* to another host */
	ROUTE_OTHER = 2,          /* the host's own address, a broadcast, … */
	ROUTE_NONE = 3            /* the kernel answered ENETUNREACH or EHOSTUNREACH: it has no route */
};

/* Returns a netlink socket that receives messages only from the kernel, or -1 with errno. The caller closes it. */
int route_open(void);

/* Returns the route in the network namespace in which `netlink` was opened. Borrows `netlink`, from route_open(). */
enum route route_to(int netlink, const struct endpoint *to);

/* Returns 1 if the calling thread's network namespace has a route to public addresses of the family (AF_INET or
 * AF_INET6). */
int relay_has_route(int family);

#endif
