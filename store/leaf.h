/*
 * leaf.h - the chunks of a damaged maildrop, found without SQLite: page by page, whatever became of
 * the tree above them.
 *
 * For salvage only. The file's format: sqlite.org/fileformat.html, sections 1.6 and 2.1.
 */
#ifndef POPLAR_STORE_LEAF_H
#define POPLAR_STORE_LEAF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One chunk: what it is of, and where its content begins. */
struct leaf_chunk {
    int64_t place;   /* SCHEMA_CHUNK_BITS */
    uint32_t page;   /* from 1 */
    uint16_t offset; /* of the content in the page */
    uint32_t size;   /* octets of content */
    uint32_t local;  /* of them, in this page; the others in a chain of further pages */
};

/* Look through all pages of a file for leaves that hold chunks; in the order of their places. The
 * caller frees. False: no memory, or the file cannot be read. */
bool leaf_find_chunks(int fd, struct leaf_chunk **chunks, size_t *n);

/* Read a whole chunk that was found so; `content` has room for its size. False if its chain is
 * broken. */
bool leaf_read_chunk(int fd, const struct leaf_chunk *chunk, unsigned char *content);

#endif
