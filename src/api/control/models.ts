import { z } from 'zod'
import { checkpointFormats, checkpointSource, parallelLayout } from './checkpoints.ts'
import { deletedQuery, fileItem, filesQuery, uploadedFiles } from './datasets.ts'
import { endpoint } from './endpoint.ts'
import { nounId, nounName, pageOf, pageQuery, storableText, time } from './fields.ts'
import { placeLink } from './places.ts'
import { retentionSpec } from './retention.ts'

export const checkpointItem = z.object({
  id: nounId,
  name: z.string(),
  description: z.string(),
  source: checkpointSource,
  format: z.enum(checkpointFormats),
  layout: parallelLayout,
  step: z.int(),
  job: z.object({ id: nounId, name: z.string() }).nullable(),
  metrics: z.record(z.string(), z.number()),
  digest: z.string(),
  bytes: z.int(),
  files: z.int(),
  created_at: time,
  deleted_at: time.nullable(),
})

export const lineageAnswer = z.object({
  edges: z.array(
    z.object({
      from: z.object({ id: nounId, label: z.string() }),
      to: z.object({ id: nounId, label: z.string() }),
    }),
  ),
})

export const listCheckpoints = endpoint({
  name: 'checkpoints.list',
  method: 'GET',
  path: '/projects/:project/checkpoints',
  summary: 'Checkpoints, newest first.',
  access: 'checkpoint:view',
  query: deletedQuery.extend({ job: storableText(100, 1).optional() }),
  answer: pageOf(checkpointItem),
})

export const viewCheckpoint = endpoint({
  name: 'checkpoints.view',
  method: 'GET',
  path: '/projects/:project/checkpoints/:checkpoint',
  summary: 'A checkpoint by name, or by JOB@STEP.',
  access: 'checkpoint:view',
  answer: checkpointItem,
})

const checkpointFields = {
  name: nounName,
  step: z.int().min(0).default(0),
  layout: parallelLayout.default({ data: 1, tensor: 1, pipeline: 1, expert: 1 }),
  description: storableText(2000).default(''),
}

export const createCheckpoint = endpoint({
  name: 'checkpoints.create',
  method: 'POST',
  once: true,
  path: '/projects/:project/checkpoints',
  summary: 'Make a checkpoint of uploaded files.',
  access: 'checkpoint:create',
  body: z.strictObject({ ...checkpointFields, files: uploadedFiles }),
  answer: checkpointItem,
})

export const linkCheckpoint = endpoint({
  name: 'checkpoints.link',
  method: 'POST',
  path: '/projects/:project/checkpoint-links',
  summary: 'Make a checkpoint of what lies in a bucket or folder. Nothing is copied.',
  access: 'checkpoint:create',
  body: z.strictObject({ ...checkpointFields, link: placeLink }),
  answer: checkpointItem,
})

export const checkpointFiles = endpoint({
  name: 'checkpoints.files',
  method: 'GET',
  path: '/projects/:project/checkpoints/:checkpoint/files',
  summary: 'The manifest: files with their digests.',
  access: 'checkpoint:view',
  query: filesQuery,
  answer: pageOf(fileItem),
})

export const checkpointContent = endpoint({
  name: 'checkpoints.content',
  method: 'GET',
  path: '/projects/:project/checkpoints/:checkpoint/content',
  summary: 'The bytes of one file, or the range of them that the header Range names.',
  access: 'checkpoint:view',
  query: z.strictObject({ path: storableText(1024, 1) }),
  answer: 'bytes',
})

export const checkpointLineage = endpoint({
  name: 'checkpoints.lineage',
  method: 'GET',
  path: '/projects/:project/checkpoints/:checkpoint/lineage',
  summary: 'What it was made of, and what was made of it.',
  access: 'checkpoint:view',
  answer: lineageAnswer,
})

export const deleteCheckpoint = endpoint({
  name: 'checkpoints.delete',
  method: 'DELETE',
  path: '/projects/:project/checkpoints/:checkpoint',
  summary: 'Delete a checkpoint that no model names; it can be restored for 24 hours.',
  access: 'checkpoint:delete',
  answer: 'nothing',
})

export const restoreCheckpoint = endpoint({
  name: 'checkpoints.restore',
  method: 'POST',
  path: '/projects/:project/checkpoints/:checkpoint/restore',
  summary: 'Take back a deletion, by the id of the checkpoint.',
  access: 'checkpoint:delete',
  answer: checkpointItem,
})

const alias = nounName

export const releaseItem = z.object({
  id: nounId,
  number: z.int(),
  checkpoint: nounId,
  message: z.string(),
  created_at: time,
})

export const modelItem = z.object({
  id: nounId,
  name: z.string(),
  latest: z.int(),
  aliases: z.record(z.string(), z.int()),
  created_at: time,
  updated_at: time,
  deleted_at: time.nullable(),
})

export const modelView = modelItem.extend({ version: releaseItem, checkpoint: checkpointItem })

export const listModels = endpoint({
  name: 'models.list',
  method: 'GET',
  path: '/projects/:project/models',
  summary: 'Models by name.',
  access: 'model:view',
  query: deletedQuery,
  answer: pageOf(modelItem),
})

export const viewModel = endpoint({
  name: 'models.view',
  method: 'GET',
  path: '/projects/:project/models/:model',
  summary: 'A model and a version of it: NAME, NAME@3, NAME:ALIAS.',
  access: 'model:view',
  answer: modelView,
})

export const listReleases = endpoint({
  name: 'models.versions',
  method: 'GET',
  path: '/projects/:project/models/:model/versions',
  summary: 'Versions of a model, newest first.',
  access: 'model:view',
  query: pageQuery,
  answer: pageOf(releaseItem),
})

export const promote = endpoint({
  name: 'models.promote',
  method: 'POST',
  once: true,
  path: '/projects/:project/models/:model/versions',
  summary: 'Make a version of a checkpoint, and move an alias to it; the model too, when there is none.',
  access: 'model:create',
  body: z.strictObject({
    checkpoint: storableText(200, 1),
    alias: alias.optional(),
    message: storableText(500).default(''),
  }),
  answer: modelView,
})

export const setAlias = endpoint({
  name: 'models.set-alias',
  method: 'PUT',
  path: '/projects/:project/models/:model/aliases/:alias',
  summary: 'Move an alias to a version that there is: forth, or back.',
  access: 'model:edit',
  body: z.strictObject({ version: z.int().min(1) }),
  answer: modelItem,
})

export const removeAlias = endpoint({
  name: 'models.remove-alias',
  method: 'DELETE',
  path: '/projects/:project/models/:model/aliases/:alias',
  summary: 'Take an alias away.',
  access: 'model:edit',
  answer: modelItem,
})

export const modelLineage = endpoint({
  name: 'models.lineage',
  method: 'GET',
  path: '/projects/:project/models/:model/lineage',
  summary: 'What a version was made of, and what uses it.',
  access: 'model:view',
  answer: lineageAnswer,
})

export const deleteModel = endpoint({
  name: 'models.delete',
  method: 'DELETE',
  path: '/projects/:project/models/:model',
  summary: 'Delete a model that nothing uses; it can be restored for 24 hours. Its checkpoints stay.',
  access: 'model:delete',
  answer: 'nothing',
})

export const restoreModel = endpoint({
  name: 'models.restore',
  method: 'POST',
  path: '/projects/:project/models/:model/restore',
  summary: 'Take back a deletion, by the id of the model.',
  access: 'model:delete',
  answer: modelItem,
})

export const retentionItem = z.object({ name: z.string(), rule: retentionSpec, updated_at: time })

export const listRetention = endpoint({
  name: 'retention.list',
  method: 'GET',
  path: '/projects/:project/retention-rules',
  summary: 'Rules about which checkpoints of jobs stay.',
  access: 'checkpoint:view',
  query: pageQuery,
  answer: pageOf(retentionItem),
})

export const setRetention = endpoint({
  name: 'retention.set',
  method: 'PUT',
  path: '/projects/:project/retention-rules/:rule',
  summary: 'Set a rule. A checkpoint stays when any rule that speaks of its job keeps it.',
  access: 'checkpoint:edit',
  body: retentionSpec,
  answer: retentionItem,
})

export const deleteRetention = endpoint({
  name: 'retention.delete',
  method: 'DELETE',
  path: '/projects/:project/retention-rules/:rule',
  summary: 'Take a rule away.',
  access: 'checkpoint:edit',
  answer: 'nothing',
})
