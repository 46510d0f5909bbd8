/**
 * JSON Schemas (2020-12) of the files that people write, for editors: made from what checks those files. What a schema
 * cannot say (a refinement, a file that must be there) is said by the command that reads the file.
 */
import { z } from 'zod'
import { deploymentInput, deploymentUpdate } from '../api/control/deployments.ts'
import { jobPlacement } from '../api/control/jobs.ts'
import { manifests } from '../api/control/manifest.ts'
import { runJob } from '../api/control/run-job.ts'
import { dial } from '../train/dial.ts'
import { trainingJobFile } from '../train/job.ts'

type Schema = Readonly<Record<string, unknown>>

const dialect = 'https://json-schema.org/draft/2020-12/schema'

/** What `ropeway schema` takes, and what each is for. */
export const schemaNames = {
  training: 'a job for our trainer: ropeway train, ropeway job run -f',
  command: 'a job that runs any command: ropeway train, ropeway job run -f',
  deployment: 'the settings of a deployment: ropeway deployment create -f',
  apply: 'things by a file: ropeway apply -f',
} as const

export type SchemaName = keyof typeof schemaNames

export function schemaOf(name: SchemaName): Schema {
  const schema = makers[name]()
  return { $schema: dialect, title: `Ropeway: ${schemaNames[name]}`, ...schema }
}

const makers: { readonly [Name in SchemaName]: () => Schema } = {
  training: trainingSchema,
  command: () => plainSchema(runJob.extend({ job: jobPlacement.optional() })),
  deployment: () => plainSchema(deploymentInput.partial({ name: true, version: true }).extend(changes)),
  apply: applySchema,
}

/** An update says less than a new deployment; the same file may be either. */
const changes = { version: deploymentUpdate.shape.version }

function plainSchema(schema: z.ZodType): Schema {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, {
    io: 'input',
    unrepresentable: 'any',
    override: ({ zodSchema, jsonSchema }) => {
      const pattern = patternOf(zodSchema)
      if (pattern?.ignoreCase === true) jsonSchema.pattern = inBothCases(pattern.source)
    },
  })
  return rest
}

/** The regular expression that a text must match, whatever is wrapped around it. */
function patternOf(schema: z.core.$ZodType): RegExp | undefined {
  const { checks, innerType } = schema._zod.def as {
    checks?: { _zod: { def: { pattern?: RegExp } } }[]
    innerType?: z.core.$ZodType
  }
  const found = checks?.map((check) => check._zod.def.pattern).find((pattern) => pattern !== undefined)
  return found ?? (innerType === undefined ? undefined : patternOf(innerType))
}

/** A pattern of JSON Schema has no flags: letters stand in it in both cases. Takes letters, ranges a-z and escapes. */
function inBothCases(source: string): string {
  let inClass = false
  return source.replace(/\\.|[[\]]|a-z|[a-z]/g, (part) => {
    if (part === '[' || part === ']') inClass = part === '['
    if (!/^[a-z]/.test(part)) return part
    const both = part + part.toUpperCase()
    return inClass ? both : `[${both}]`
  })
}

/** One dial fills in most of a job: only without one must the file say everything. */
function trainingSchema(): Schema {
  const { required, ...whole } = plainSchema(trainingJobFile.extend({ job: jobPlacement.optional() }))
  const strict = whole.properties as Record<string, Schema>
  const filled = ['model', 'optimizer'].map((field) => [field, loose(strict[field]!)])
  return {
    ...whole,
    properties: { ...strict, ...Object.fromEntries(filled) },
    required: ['data'],
    if: { anyOf: Object.keys(dial).map((field) => ({ required: [field] })) },
    else: { required, properties: { model: strict.model, optimizer: strict.optimizer } },
  }
}

/** Without what must be there. */
function loose(value: Schema): Schema {
  const { required: _, ...rest } = value
  const { anyOf } = rest as { anyOf?: readonly Schema[] }
  return anyOf === undefined ? rest : { ...rest, anyOf: anyOf.map(loose) }
}

/** Documents by their kind, so that an editor complains about the kind that was meant. */
function applySchema(): Schema {
  const kinds = manifests.map(({ shape }) => shape.kind.value)
  const documents = manifests.map((one) => {
    const schema = plainSchema(one)
    const { spec } = schema.properties as Record<string, Schema>
    if (spec === undefined) return schema
    return { ...schema, properties: { ...(schema.properties as object), spec: jobInside } }
  })
  return {
    type: 'object',
    required: ['kind', 'name'],
    properties: { kind: { enum: kinds } },
    allOf: kinds.map((kind, index) => ({
      if: { required: ['kind'], properties: { kind: { const: kind } } },
      // biome-ignore lint/suspicious/noThenProperty: it is a word of JSON Schema
      then: documents[index],
    })),
    $defs: { training: trainingSchema(), command: makers.command() },
  }
}

const jobInside = {
  type: 'object',
  if: { required: ['run'] },
  // biome-ignore lint/suspicious/noThenProperty: it is a word of JSON Schema
  then: { $ref: '#/$defs/command' },
  else: { $ref: '#/$defs/training' },
}
