/* Records of ended flows, refusals and followed requests, made only while there is a subscriber.
 *
 * Each kind has a bounded ring of its own, so that a flood of one kind can't displace another. A record is dropped and
 * counted if its ring is full. All functions may be called from any thread. None blocks longer than a copy of the batch
 * takes.
 */
#ifndef PYINTERCEPTOR_RECORDS_H
#define PYINTERCEPTOR_RECORDS_H

#include "policy.h"

/* FLOW and REFUSAL: one record for each flow that ends in C, a REFUSAL if it was refused. A flow that is handed off to
 * Python has neither: Python makes its records. REQUEST: one record for each request of a followed flow, made when its
 * response has ended or the flow ends without one. */
enum record_kind { RECORD_FLOW = 1, RECORD_REFUSAL = 2, RECORD_REQUEST = 4 };

#define RECORD_METHOD_MAX 32
#define RECORD_TARGET_MAX 256

struct relay_record {
	uint32_t kind;                /* enum record_kind */
	uint32_t container;           /* the container's number */
	uint64_t flow;                /* the flow's number */
	uint32_t protocol;            /* enum protocol */
	uint32_t cause;               /* enum end_cause */
	struct decision decision;
	uint32_t status;              /* REQUEST: the response's status; 0: there was no response */
	uint32_t reserved;
	struct endpoint client;
	struct endpoint destination;  /* as the container dialled it */
	uint64_t sent, received;      /* bytes from and to the container; REQUEST: of this exchange, heads and bodies */
	double began, judged, connected, answered, ended; /* seconds, CLOCK_MONOTONIC; 0: never */
	char method[RECORD_METHOD_MAX];  /* NUL-terminated, truncated */
	char host[HOST_MAX + 1];         /* as the client wrote it: it may contain any byte except NUL */
	char target[RECORD_TARGET_MAX];  /* NUL-terminated, truncated */
};

struct relay_dropped {            /* records dropped since relay_open() */
	uint64_t flows, refusals, requests;
};

struct relay;

/* Sets the kinds of records to make: bits of enum record_kind; 0 for none. Records that were made remain. Returns 0 or
 * -ENOMEM. */
int relay_subscribe(struct relay *relay, uint32_t kinds);

/* Returns an eventfd that becomes readable when a record is made while all rings are empty. Borrowed. Read it, then
 * take records until none is left: in the other order, the signal of a record made in between would be lost. */
int relay_record_fd(struct relay *relay);

/* Takes up to `count` records, the flow or exchange that ended first before the others. Returns the number taken. */
uint32_t relay_take_records(struct relay *relay, struct relay_record *out, uint32_t count);

void relay_count_dropped(struct relay *relay, struct relay_dropped *out);

/* ---- called by relay.c and the relay's threads ---- */

struct records;

struct records *records_new(void); /* returns NULL with errno on failure */
void records_free(struct records *records);

/* Returns 1 if there is a subscriber to this kind. Check it before filling in a record. */
int record_is_wanted(const struct relay *relay, enum record_kind kind);

/* Copies the record into its ring. Does nothing without a subscriber to its kind. */
void record_make(struct relay *relay, const struct relay_record *record);

#endif
