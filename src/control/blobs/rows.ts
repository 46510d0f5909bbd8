import type { Upload } from '../objects/store.ts'

/**
 * `receiving`: parts are coming. `ready`: all of it is there, for good. `dropping`: nobody wants it, and its object
 * is being removed; a new upload of the same content begins a new row.
 */
export type BlobState = 'receiving' | 'ready' | 'dropping'

/** Bytes of one project, named by their content. */
export interface BlobRow {
  readonly id: string
  readonly project_id: string
  readonly digest: string
  readonly bytes: number
  readonly part_bytes: number
  /** Of the object. It is written once, because the row's id is in it. */
  readonly key: string
  readonly state: BlobState
  readonly live: 1 | null
  /** While parts are received, and there is more than one of them. */
  readonly upload_json: Upload | null
  readonly part_hashes: string
  /** When somebody last wanted it (Unix milliseconds). */
  readonly touched_at: number
  readonly version: number
}

/** A file of a version of a dataset, or of a checkpoint. */
export interface FileRow {
  readonly owner_id: string
  readonly path: string
  /** Null for a file that lies in somebody's bucket: `digest` is then the tag that it had when it was linked. */
  readonly blob_id: string | null
  readonly bytes: number
  readonly digest: string
}

export interface BlobTables {
  blobs: BlobRow
  files: FileRow
}

const hashCharacters = 64

/** SHA-256 of part `number` (from 1) in hex. */
export function hashOfPart(blob: BlobRow, number: number): string {
  return blob.part_hashes.slice((number - 1) * hashCharacters, number * hashCharacters)
}

export function partsOf(blob: BlobRow): number {
  return blob.part_hashes.length / hashCharacters
}
