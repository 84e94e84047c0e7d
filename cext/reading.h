/* The result of a look at bytes that may not all be there: one enum for every parser.
 *
 * Pure. A parser that returns READING_MORE has consumed nothing: call it again with the same bytes and those that
 * have come since.
 */
#ifndef PYINTERCEPTOR_READING_H
#define PYINTERCEPTOR_READING_H

enum reading {
	READING_MORE = 0,         /* the bytes so far are fine, and more are needed */
	READING_WHOLE = 1,        /* complete: the result is set */
	READING_BAD = 2           /* malformed: no further byte mends it */
};

#endif
