/* The constants and structures of DNS that C and Python share. Pure. */
#ifndef PYINTERCEPTOR_NAMESERVERS_H
#define PYINTERCEPTOR_NAMESERVERS_H

#include <stdint.h>

/* Seconds. */
#define NAMESERVER_TRY 2      /* for one query to one server */
#define NAMESERVER_PLAIN 3600 /* for which a server that has refused EDNS is asked without it */
#define NAMESERVER_LACKING 5  /* for which the other family isn't asked for again, after an answer that can't be kept */
#define SECOND_FAMILY 1       /* to wait for the other family, once one family has addresses */
#define NAME_KEPT 300         /* at least, for which an address leads to its name: clients exceed the TTL of answers */

#define NAMESERVER_ROUNDS 2   /* over all servers */
#define NAMESERVER_PORTS 32   /* sockets for each server */
#define PORT_QUERIES 256      /* with one socket, which is then replaced */

/* A server's address. */
struct nameserver {
	uint8_t address[16];      /* v4 as v4-mapped */
	uint32_t scope;           /* interface of a link-local address */
	uint16_t port;
	uint16_t reserved;
};

/* Of one container: the limits of its queries, and their counts. */
struct resolver_budget {
	uint32_t queries;         /* that wait for upstream */
	uint32_t queue;           /* over UDP, waiting for their turn */
};

struct resolver_counts {
	uint64_t queries;         /* over UDP */
	uint64_t over_budget;     /* over UDP they were truncated, over TCP they waited */
	uint64_t unanswered;      /* by all upstream servers */
	uint64_t waiting;         /* for upstream, now */
};

#endif
