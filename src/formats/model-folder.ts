import { existsSync, readdirSync, statSync } from 'node:fs'
import { join, relative, resolve, sep } from 'node:path'
import { messageOf, UserError } from '../base/errors.ts'
import { damaged, openForReading } from './file-source.ts'
import { closeAll, JoinedSource } from './joined-source.ts'
import { headerBytesMax, isObject, openSafetensors, parseJsonObject, uniqueKeys } from './safetensors.ts'
import { show } from './shape.ts'
import type { TensorSource } from './source.ts'

/** The weights of a Hugging Face model folder: one safetensors file, or shards and their index. */

export const singleFileName = 'model.safetensors'
export const indexFileName = 'model.safetensors.index.json'

/** Opens whatever safetensors layout `folder` has; a single file wins over an index, as in transformers. */
export function openModelFolder(folder: string): TensorSource {
  const single = join(folder, singleFileName)
  if (existsSync(single)) return openSafetensors(single)
  if (existsSync(join(folder, indexFileName))) return openShardedSafetensors(folder)
  const found = filesOf(folder).filter((name) => name.endsWith('.safetensors'))
  if (found.length === 1) return openSafetensors(join(folder, found[0]!))
  const why =
    found.length === 0
      ? 'it has no .safetensors file'
      : `it has ${found.length} .safetensors files and no ${indexFileName}`
  throw new UserError(`${folder} is not a model folder that Ropeway can read: ${why}`, {
    failure: 'not_found',
    fix: `Give a folder with ${singleFileName}, or with ${indexFileName} and the shards it names, or a GGUF file.`,
  })
}

function filesOf(folder: string): string[] {
  try {
    if (statSync(folder).isDirectory()) return readdirSync(folder)
  } catch (error) {
    throw new UserError(`${folder} cannot be opened: ${messageOf(error)}`, {
      failure: 'not_found',
      cause: error,
    })
  }
  throw new UserError(`${folder} is not a folder`, { failure: 'not_found' })
}

/**
 * Opens the shards that the folder's index names. Refused: an index that points outside the folder, a
 * shard that is missing, a tensor that its shard does not have.
 */
export function openShardedSafetensors(folder: string): TensorSource {
  const path = join(folder, indexFileName)
  const index = readIndex(path)
  const shards = new Map<string, TensorSource>()
  try {
    const owners = new Map<string, TensorSource>()
    for (const { name, shard, byte } of index) {
      let source = shards.get(shard)
      if (source === undefined) {
        source = openSafetensors(shardPath(path, folder, name, shard, byte))
        shards.set(shard, source)
      }
      if (source.info(name) === undefined)
        throw damaged(path, byte, `tensor ${show(name)} should be in ${shard}, which does not have it`)
      owners.set(name, source)
    }
    return new JoinedSource(folder, [...shards.values()], owners)
  } catch (error) {
    closeAll(shards.values())
    throw error
  }
}

interface IndexEntry {
  readonly name: string
  readonly shard: string
  /** Where the index names the tensor, for messages. */
  readonly byte: number
}

function readIndex(path: string): IndexEntry[] {
  using file = openForReading(path)
  if (file.bytes > headerBytesMax)
    throw damaged(path, 0, `the index has ${file.bytes} bytes; at most ${headerBytesMax} are allowed`)
  const text = Buffer.alloc(file.bytes)
  file.read(0, text)
  const parsed = parseJsonObject(path, text, 0)
  const keys = uniqueKeys(path, text, 0, 2)
  if (!isObject(parsed.weight_map)) throw damaged(path, 0, 'the index has no object "weight_map"')
  return Object.entries(parsed.weight_map).map(([name, shard]) => {
    const byte = keys.at.get(name) ?? 0
    if (typeof shard !== 'string')
      throw damaged(path, byte, `tensor ${show(name)}: its file name is not text`)
    return { name, shard, byte }
  })
}

/** Links are followed (the Hugging Face cache is made of them); names that climb out of the folder are not. */
function shardPath(index: string, folder: string, tensor: string, shard: string, byte: number): string {
  const path = resolve(folder, shard)
  const inside = relative(resolve(folder), path)
  if (
    inside === '' ||
    inside === '..' ||
    inside.startsWith(`..${sep}`) ||
    /[\0\\]/.test(shard) ||
    shard.startsWith('/')
  )
    throw damaged(index, byte, `tensor ${show(tensor)} points to ${show(shard)}, outside the model folder`)
  if (!existsSync(path))
    throw damaged(
      index,
      byte,
      `tensor ${show(tensor)} is in ${shard}, which is missing`,
      'Download the missing file into the same folder.',
    )
  return path
}
