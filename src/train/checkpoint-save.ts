/**
 * Writing a checkpoint beside training: everything here yields to the event loop between pieces, while the steps
 * compute on threads of their own.
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { syncFolder, writeFileAtomic } from '../base/files.ts'
import { safetensorsPieces } from '../formats/safetensors-write.ts'
import {
  type Manifest,
  manifestName,
  removeLeftovers,
  sealed,
  stepFolderName,
  type TrainerState,
} from './checkpoint.ts'
import type { Snapshot } from './snapshot.ts'

export interface CheckpointContent {
  snapshot: Snapshot
  /** What goes along as it is, by file name: tokenizer and chat template. */
  files: Readonly<Record<string, string>>
  state: TrainerState
}

/** Moments of a save at which a crash is interesting. */
export const saveStages = ['begun', 'model', 'optimizer', 'written', 'aside', 'renamed', 'pruned'] as const
export type SaveStage = (typeof saveStages)[number]

/** Saves into `root`/step-NNNNNN and returns that folder. The snapshot must stay as it is until then. */
export async function saveCheckpoint(
  root: string,
  content: CheckpointContent,
  onStage: (stage: SaveStage) => void = () => undefined,
): Promise<string> {
  const name = stepFolderName(content.state.stepsDone)
  const folder = join(root, name)
  const temporary = join(root, `.${name}.tmp`)
  removeLeftovers(root)
  await mkdir(temporary, { recursive: true })
  onStage('begun')
  await writeFiles(temporary, content, onStage)
  onStage('written')
  // The same step may be there already, damaged; it makes way only when the new one is complete.
  const aside = join(root, `.${name}.old.tmp`)
  if (existsSync(folder)) await rename(folder, aside)
  onStage('aside')
  await rename(temporary, folder)
  syncFolder(root)
  onStage('renamed')
  await rm(aside, { recursive: true, force: true })
  return folder
}

async function writeFiles(
  folder: string,
  content: CheckpointContent,
  onStage: (stage: SaveStage) => void,
): Promise<void> {
  const { snapshot, files: texts, state } = content
  const { weightsName, description } = snapshot.saved
  const metadata = { format: 'pt' }
  const files: Manifest['files'] = {}
  const write = async (name: string, pieces: Iterable<Uint8Array>) => {
    files[name] = await writeHashed(join(folder, name), pieces)
  }
  await write(description.name, [Buffer.from(description.content)])
  for (const [name, text] of Object.entries(texts)) await write(name, [Buffer.from(text)])
  await write(weightsName, safetensorsPieces(snapshot.weights(), metadata))
  onStage('model')
  await write('optimizer.safetensors', safetensorsPieces(snapshot.moments(), metadata))
  onStage('optimizer')
  const sorted = Object.fromEntries(Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1)))
  writeFileAtomic(join(folder, manifestName), sealed({ format: 1, ...state, files: sorted }))
}

/** Writes and syncs a new file in a folder that nobody reads yet. */
export async function writeHashed(
  path: string,
  pieces: Iterable<Uint8Array>,
): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256')
  let bytes = 0
  const file = await open(path, 'w')
  try {
    for (const piece of pieces) {
      const writing = writeWhole(file, piece)
      hash.update(piece)
      await writing
      bytes += piece.length
    }
    await file.sync()
  } finally {
    await file.close()
  }
  return { bytes, sha256: hash.digest('hex') }
}

async function writeWhole(file: FileHandle, piece: Uint8Array): Promise<void> {
  for (let offset = 0; offset < piece.length; ) {
    const { bytesWritten } = await file.write(piece, offset, piece.length - offset)
    offset += bytesWritten
  }
}
