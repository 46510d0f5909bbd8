/** A job's folder on its way to the service: a list of files by content, and the contents that it lacks. */
import { z } from 'zod'
import { endpoint } from './endpoint.ts'

export const workspaceFilesMax = 2_000
export const workspaceFileBytesMax = 32 << 20
export const workspaceBytesMax = 256 << 20

export const contentHash = z.string().regex(/^[0-9a-f]{64}$/)

/** Relative, with `/`, without `.`, `..`, empty names or control characters. */
export const workspacePath = z
  .string()
  .min(1)
  .max(1000)
  .refine(
    (path) =>
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
      !/[\u0000-\u001f\\]/.test(path) &&
      path.split('/').every((part) => part !== '' && part !== '.' && part !== '..'),
    'it is no relative path inside of a folder',
  )

export const workspaceFiles = z
  .array(
    z.strictObject({
      path: workspacePath,
      sha256: contentHash,
      bytes: z.int().min(0).max(workspaceFileBytesMax),
      executable: z.boolean().default(false),
    }),
  )
  .max(workspaceFilesMax)
  .refine((files) => new Set(files.map(({ path }) => path)).size === files.length, 'a path comes twice')
  .refine(
    (files) => files.reduce((sum, { bytes }) => sum + bytes, 0) <= workspaceBytesMax,
    `all files together have more than ${workspaceBytesMax >> 20} MB`,
  )
export type WorkspaceFiles = z.output<typeof workspaceFiles>

/** The text whose SHA-256 names a folder: its files by path. */
export function workspaceListText(files: WorkspaceFiles): string {
  const sorted = [...files].sort((a, b) => (a.path < b.path ? -1 : 1))
  return JSON.stringify(
    sorted.map(({ path, sha256, bytes, executable }) => ({ path, sha256, bytes, executable })),
  )
}

export const putWorkspace = endpoint({
  name: 'workspaces.put',
  method: 'POST',
  path: '/projects/:project/workspaces',
  summary: 'Keep a folder for jobs; says which contents are still to be sent, and its id when none are.',
  access: 'job:create',
  body: z.strictObject({ files: workspaceFiles }),
  answer: z.object({ id: z.string().nullable(), missing: z.array(z.string()) }),
})

export const putWorkspaceContent = endpoint({
  name: 'workspaces.send',
  method: 'PUT',
  path: '/projects/:project/workspaces/contents/:content',
  summary: 'Send the content of a file; it must have this SHA-256.',
  access: 'job:create',
  body: 'bytes',
  answer: 'nothing',
})
