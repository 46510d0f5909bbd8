import { type FormEvent, useEffect, useRef, useState } from 'react'
import {
  type CredentialField,
  type CredentialKind,
  type CredentialValues,
  createCredential,
  credentialFields,
  credentialKinds,
  replaceCredential,
  secretCharactersMax,
} from '../../../src/api/control/credentials.ts'
import { UserError } from '../../../src/base/errors.ts'
import { service, useDeed } from '../service.ts'
import { Problem } from './problem.tsx'
import { namePattern } from './upload.tsx'

/** Where the fields alone do not say which of them are needed. */
const hints: { readonly [Kind in CredentialKind]?: string } = {
  'azure-blob': 'Either the key of the account, or a SAS token that somebody made with it.',
  gcs: 'Either the JSON file of a service account, or both parts of an HMAC key.',
  mlflow: 'Either a token, or a name and a password.',
}

/** What takes those of each kind. */
const uses: { readonly [Kind in CredentialKind]: string } = {
  s3: 'For links of s3:// and for jobs.',
  'azure-blob': 'For links of az:// and for jobs.',
  gcs: 'For links of gs://.',
  huggingface: 'For links of hf:// and for jobs.',
  docker: 'For the registry of jobs with an image.',
  slack: 'For messages of jobs and deployments (notify), and for jobs.',
  wandb: 'For jobs, those of fine-tuning too.',
  mlflow: 'For jobs.',
  kubernetes: 'Nothing takes it yet.',
  ssh: 'Nothing takes it yet.',
}

interface CredentialFormProps {
  readonly project: string
  /** The one that gets other values; a new one without it. */
  readonly replaced?: { readonly id: string; readonly name: string; readonly kind: string }
  onStored(name: string): void
}

/** What a credential of some kind holds. The form forgets it as soon as it is stored. */
export function CredentialForm({ project, replaced, onStored }: CredentialFormProps) {
  const [kind, setKind] = useState((replaced?.kind ?? credentialKinds[0]) as CredentialKind)
  const form = useRef<HTMLFormElement>(null)
  const isReplacing = replaced !== undefined
  useEffect(() => {
    // Asked for by a button further up.
    if (isReplacing) form.current?.querySelector('input')?.focus()
  }, [isReplacing])
  // The form itself is what is handed on: nothing else of the page ever holds a secret.
  const store = useDeed(
    async (sent: HTMLFormElement) => {
      const body = { values: await valuesOf(sent, kind) }
      const name = replaced?.name ?? String(new FormData(sent).get('name'))
      if (replaced === undefined)
        await service.call(createCredential, { params: { project }, body: { ...body, name } })
      // By its id: under its name another one may have been stored meanwhile.
      else await service.call(replaceCredential, { params: { project, credential: replaced.id }, body })
      sent.reset()
      return name
    },
    ['credentials.'],
    onStored,
  )
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    store.mutate(event.currentTarget)
  }
  return (
    <form ref={form} onSubmit={send} autoComplete="off">
      <div className="row">
        {!isReplacing && (
          <label>
            Name
            <input name="name" required pattern={namePattern} spellCheck={false} />
          </label>
        )}
        <label>
          Kind
          <select value={kind} onChange={({ target }) => setKind(target.value as CredentialKind)}>
            {credentialKinds.map((one) => (
              <option key={one}>{one}</option>
            ))}
          </select>
        </label>
      </div>
      <p className="quiet">
        {uses[kind]} {hints[kind]}
      </p>
      {/* Of another kind: what was typed into fields of the same name is not carried over. */}
      <div className="row" key={kind}>
        {credentialFields(kind).map((field) => (
          <Field key={field.name} field={field} />
        ))}
        <button type="submit" className="main" disabled={store.isPending}>
          {isReplacing ? 'Put them in' : 'Store'}
        </button>
      </div>
      <Problem error={store.error} />
    </form>
  )
}

const types = { text: 'text', url: 'url', secret: 'password', file: 'file' } as const

function Field({ field: { name, input, isNeeded } }: { field: CredentialField }) {
  return (
    <label>
      {labelOf(name)}
      {input === 'file' && ', a file'}
      {!isNeeded && ' (if it has one)'}
      <input
        name={`value-${name}`}
        type={types[input]}
        required={isNeeded}
        spellCheck={false}
        autoComplete={input === 'secret' ? 'new-password' : 'off'}
      />
    </label>
  )
}

/** `Access key ID`. */
function labelOf(field: string): string {
  const words = field.replaceAll('_', ' ').replace(/\b(id|sas|url|api)\b/g, (word) => word.toUpperCase())
  return words.charAt(0).toUpperCase() + words.slice(1)
}

/** Fields that were left empty are left out. */
async function valuesOf(form: HTMLFormElement, kind: CredentialKind): Promise<CredentialValues> {
  const given = new FormData(form)
  const values: Record<string, string> = { kind }
  for (const { name, input } of credentialFields(kind)) {
    const value = given.get(`value-${name}`)
    const text = value instanceof File ? await textOf(value) : String(value)
    const meant = input === 'text' || input === 'url' ? text.trim() : text
    if (meant !== '') values[name] = meant
  }
  // What is wrong with them, the service says.
  return values as CredentialValues
}

async function textOf(file: File): Promise<string> {
  if (file.size <= secretCharactersMax) return await file.text()
  throw new UserError(`${file.name} is too large: a secret has ${secretCharactersMax} bytes at most.`)
}
