/* The result of parsing input that may be incomplete: one enum for every parser.
 *
 * Pure. A parser that returns READING_MORE has consumed nothing: call it again with the same bytes and those that
 * arrived since.
 */
#ifndef PYINTERCEPTOR_READING_H
#define PYINTERCEPTOR_READING_H

enum reading {
	READING_MORE = 0,         /* valid so far; more bytes are needed */
	READING_WHOLE = 1,        /* complete: the result is set */
	READING_BAD = 2           /* malformed: further bytes can't make it valid */
};

#endif
