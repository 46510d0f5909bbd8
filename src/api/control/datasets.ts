import { z } from 'zod'
import { fileBytesMax } from './digest.ts'
import { endpoint } from './endpoint.ts'
import { nounId, nounName, pageOf, pageQuery, queryFlag, queryInteger, storableText, time } from './fields.ts'
import { placeLink } from './places.ts'

/** Files that one request may name; more take several, each of which keeps what was there. */
export const requestFilesMax = 4000
const filePath = storableText(1024, 1)

/** What an upload says of the bytes that it brings: its content names it (digest.ts). */
export const announcement = z.strictObject({
  bytes: z.int().min(0).max(fileBytesMax),
  /** SHA-256 of each part in hex; their length follows from `bytes`. */
  parts: z.array(z.string().regex(/^[0-9a-f]{64}$/)).max(10_000),
})

export const upload = z.object({
  id: nounId,
  digest: z.string(),
  bytes: z.int(),
  part_bytes: z.int(),
  ready: z.boolean(),
  /** Numbers of the parts that are to be sent, from 1. */
  missing: z.array(z.int()),
})

export const beginUpload = endpoint({
  name: 'uploads.begin',
  method: 'POST',
  path: '/projects/:project/uploads',
  summary: 'Begin an upload, or go on with one of the same content; says which parts are missing.',
  access: 'dataset:create',
  body: announcement,
  answer: upload,
})

export const putPart = endpoint({
  name: 'uploads.part',
  method: 'PUT',
  path: '/projects/:project/uploads/:upload/parts/:part',
  summary: 'Send a part. It is kept once this has answered; parts may come side by side and again.',
  access: 'dataset:create',
  body: 'bytes',
  answer: 'nothing',
})

export const completeUpload = endpoint({
  name: 'uploads.complete',
  method: 'POST',
  path: '/projects/:project/uploads/:upload/complete',
  summary: 'Say that all parts were sent.',
  access: 'dataset:create',
  answer: upload,
})

export const uploadedFiles = z
  .array(z.strictObject({ path: filePath, blob: z.string().max(100) }))
  .max(requestFilesMax)

export const fileItem = z.object({ path: z.string(), bytes: z.int(), digest: z.string() })

export const filesQuery = z.strictObject({
  limit: queryInteger(1, 1000).default(1000),
  /** `next` of the page before. */
  cursor: filePath.optional(),
})

export const versionItem = z.object({
  id: nounId,
  number: z.int(),
  digest: z.string(),
  bytes: z.int(),
  files: z.int(),
  message: z.string(),
  link: placeLink.nullable(),
  created_at: time,
})

export const datasetItem = z.object({
  id: nounId,
  name: z.string(),
  description: z.string(),
  /** Number of the newest version. */
  latest: z.int(),
  created_at: time,
  updated_at: time,
  deleted_at: time.nullable(),
})

export const datasetView = datasetItem.extend({ version: versionItem })

export const deletedQuery = pageQuery.extend({ deleted: queryFlag.default('false') })

export const listDatasets = endpoint({
  name: 'datasets.list',
  method: 'GET',
  path: '/projects/:project/datasets',
  summary: 'Datasets by name.',
  access: 'dataset:view',
  query: deletedQuery,
  answer: pageOf(datasetItem),
})

export const viewDataset = endpoint({
  name: 'datasets.view',
  method: 'GET',
  path: '/projects/:project/datasets/:dataset',
  summary: 'A dataset and its newest version; NAME@3 shows the third.',
  access: 'dataset:view',
  answer: datasetView,
})

const message = storableText(500).default('')

export const addVersion = endpoint({
  name: 'datasets.add-version',
  method: 'POST',
  path: '/projects/:project/datasets/:dataset/versions',
  summary: 'Make a version of uploaded files; the dataset too, when there is none of that name.',
  access: 'dataset:create',
  body: z.strictObject({
    files: uploadedFiles,
    /** Whether files of the newest version stay. */
    keep: z.boolean().default(true),
    remove: z.array(filePath).max(requestFilesMax).default([]),
    message,
  }),
  answer: datasetView,
})

export const linkDataset = endpoint({
  name: 'datasets.link',
  method: 'POST',
  path: '/projects/:project/datasets/:dataset/link',
  summary: 'Make a version of what lies in a bucket or folder now. Nothing is copied.',
  access: 'dataset:create',
  body: z.strictObject({ link: placeLink, message }),
  answer: datasetView,
})

export const refreshDataset = endpoint({
  name: 'datasets.refresh',
  method: 'POST',
  path: '/projects/:project/datasets/:dataset/refresh',
  summary: 'Look again at what is linked: a new version when it has changed.',
  access: 'dataset:create',
  answer: datasetView,
})

export const listVersions = endpoint({
  name: 'datasets.versions',
  method: 'GET',
  path: '/projects/:project/datasets/:dataset/versions',
  summary: 'Versions of a dataset, newest first.',
  access: 'dataset:view',
  query: pageQuery,
  answer: pageOf(versionItem),
})

export const listFiles = endpoint({
  name: 'datasets.files',
  method: 'GET',
  path: '/projects/:project/datasets/:dataset/files',
  summary: 'Files of a version, by path.',
  access: 'dataset:view',
  query: filesQuery,
  answer: pageOf(fileItem),
})

export const readFile = endpoint({
  name: 'datasets.content',
  method: 'GET',
  path: '/projects/:project/datasets/:dataset/content',
  summary: 'The bytes of one file, or the range of them that the header Range names.',
  access: 'dataset:view',
  query: z.strictObject({ path: filePath }),
  answer: 'bytes',
})

export const previewDataset = endpoint({
  name: 'datasets.preview',
  method: 'GET',
  path: '/projects/:project/datasets/:dataset/preview',
  summary: 'The first records of a file.',
  access: 'dataset:view',
  query: z.strictObject({ path: filePath.optional(), limit: queryInteger(1, 100).default(5) }),
  answer: z.object({
    path: z.string(),
    records: z.array(z.object({ line: z.int(), value: z.unknown() })),
    /** Why there are no more, when the file could not be read on. */
    problem: z.string().nullable(),
  }),
})

export const fieldStatistics = z.object({
  name: z.string(),
  /** In how many records it is. */
  records: z.int(),
  /** How often it is of each JSON type. */
  types: z.record(z.string(), z.int()),
  /** Of texts in characters, of lists in items. */
  length_mean: z.number().nullable(),
  length_max: z.int().nullable(),
})

export const statisticsView = z.object({
  records: z.int(),
  bytes: z.int(),
  /** Whether every record was looked at; otherwise the first `bytes` bytes. */
  whole: z.boolean(),
  fields: z.array(fieldStatistics),
  /** Files that could not be read to their end, and why. */
  problems: z.array(z.string()),
})

export const datasetStatistics = endpoint({
  name: 'datasets.statistics',
  method: 'GET',
  path: '/projects/:project/datasets/:dataset/statistics',
  summary: 'Records and fields of a version; of a large one, of its beginning.',
  access: 'dataset:view',
  answer: statisticsView,
})

export const editDataset = endpoint({
  name: 'datasets.edit',
  method: 'PATCH',
  path: '/projects/:project/datasets/:dataset',
  summary: 'Change the name or the description.',
  access: 'dataset:edit',
  body: z.strictObject({ name: nounName.optional(), description: storableText(2000).optional() }),
  answer: datasetItem,
})

export const deleteDataset = endpoint({
  name: 'datasets.delete',
  method: 'DELETE',
  path: '/projects/:project/datasets/:dataset',
  summary: 'Delete a dataset with all its versions; it can be restored for 24 hours.',
  access: 'dataset:delete',
  answer: 'nothing',
})

export const restoreDataset = endpoint({
  name: 'datasets.restore',
  method: 'POST',
  path: '/projects/:project/datasets/:dataset/restore',
  summary: 'Take back a deletion, by the id of the dataset.',
  access: 'dataset:delete',
  answer: datasetItem,
})
