import { type ChangeEvent, type DragEvent, type FormEvent, useEffect, useRef, useState } from 'react'
import { messageOf, UserError } from '../../../src/base/errors.ts'
import { useDeed } from '../service.ts'
import { bytesText } from '../text.ts'
import {
  chosenFiles,
  droppedFiles,
  mayHash,
  nameFrom,
  type PickedFile,
  type UploadOf,
  type UploadProgress,
  uploadVersion,
} from '../uploading.ts'
import { Problem } from './problem.tsx'

interface UploadPlaceProps {
  readonly project: string
  /** The dataset that gets the version; without it a name is asked for. */
  readonly dataset?: string
  /** Names that there are. */
  readonly known?: readonly string[]
  onDone(dataset: string): void
}

export const namePattern = '[a-z0-9]([a-z0-9._\\-]{0,61}[a-z0-9])?'
const filesShown = 5

/** Where files and folders are dropped or chosen, and become a version of a dataset. */
export function UploadPlace(props: UploadPlaceProps) {
  const [files, setFiles] = useState<readonly PickedFile[]>([])
  const [name, setName] = useState('')
  if (!mayHash()) return <FromTheCommandLine dataset={props.dataset} />
  const pick = (found: readonly PickedFile[]) => {
    setFiles(found)
    const [first] = found
    const [folder] = first?.file.webkitRelativePath.split('/') ?? []
    if (first !== undefined && name === '') setName(nameFrom(folder || first.file.name))
  }
  return (
    <section className="upload">
      <DropZone onPick={pick} />
      {files.length > 0 && (
        <UploadForm
          {...props}
          key={files.map(({ path }) => path).join('\n')}
          files={files}
          name={props.dataset ?? name}
          onName={setName}
          onDone={(dataset) => {
            setFiles([])
            props.onDone(dataset)
          }}
        />
      )}
    </section>
  )
}

function FromTheCommandLine({ dataset }: { dataset: string | undefined }) {
  return (
    <div className="empty">
      <p>
        Files cannot be uploaded from here: browsers compute the hashes that name a file only at https and at
        localhost, and this page came over plain http.
      </p>
      <p>
        Open it by https, or upload on the command line:{' '}
        <code>ropeway dataset upload {dataset ?? 'NAME'} FILE_OR_FOLDER</code>
      </p>
    </div>
  )
}

function DropZone({ onPick }: { onPick(files: readonly PickedFile[]): void }) {
  const [isOver, setOver] = useState(false)
  const [problem, setProblem] = useState<unknown>()
  const drop = (event: DragEvent) => {
    event.preventDefault()
    setOver(false)
    setProblem(undefined)
    droppedFiles(event.dataTransfer.items).then(onPick, (error: unknown) =>
      setProblem(new UserError(`What was dropped cannot be read: ${messageOf(error)}`, { cause: error })),
    )
  }
  const choose = ({ target }: ChangeEvent<HTMLInputElement>) => {
    if (target.files !== null && target.files.length > 0) onPick(chosenFiles(target.files))
    // The same files may be chosen once more.
    target.value = ''
  }
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: who has no mouse has the two choosers in it
    <div
      className={isOver ? 'drop over' : 'drop'}
      onDragOver={(event) => {
        event.preventDefault()
        setOver(true)
      }}
      onDragLeave={() => setOver(false)}
      onDrop={drop}
    >
      <p>
        <strong>Drop files or a folder here</strong>
        <br />
        <span className="quiet">
          Texts, JSONL, CSV, compressed by gzip or not; anything else is kept too.
        </span>
      </p>
      <div className="buttons">
        <label className="button">
          Choose files
          <input type="file" multiple onChange={choose} className="unseen" />
        </label>
        <label className="button">
          Choose a folder
          <input type="file" {...{ webkitdirectory: '' }} onChange={choose} className="unseen" />
        </label>
      </div>
      <Problem error={problem} />
    </div>
  )
}

interface UploadFormProps extends UploadPlaceProps {
  readonly files: readonly PickedFile[]
  readonly name: string
  onName(name: string): void
}

function UploadForm({ project, dataset, known = [], files, name, onName, onDone }: UploadFormProps) {
  const [keep, setKeep] = useState(true)
  const [message, setMessage] = useState('')
  const upload = useUpload(onDone)
  const isThere = dataset !== undefined || known.includes(name)
  const bytes = files.reduce((sum, { file }) => sum + file.size, 0)
  const send = (event: FormEvent) => {
    event.preventDefault()
    upload.begin({ project, dataset: name, files, keep, message })
  }
  return (
    <form onSubmit={send}>
      <p>
        <strong>
          {files.length === 1 ? files[0]!.path : `${files.length} files`}, {bytesText(bytes)}
        </strong>
        {files.length > 1 && (
          <span className="quiet">
            {' '}
            {files
              .slice(0, filesShown)
              .map(({ path }) => path)
              .join(', ')}
            {files.length > filesShown && ' ...'}
          </span>
        )}
      </p>
      <div className="row">
        {dataset === undefined && <NameField known={known} name={name} onName={onName} />}
        <label>
          What is new (if you like)
          <input value={message} maxLength={500} onChange={({ target }) => setMessage(target.value)} />
        </label>
        {isThere && (
          <label className="check">
            <input type="checkbox" checked={keep} onChange={({ target }) => setKeep(target.checked)} />
            Files of the version before stay
          </label>
        )}
        {upload.progress === undefined ? (
          // Another element than Stop: a click on one that becomes this one meanwhile would send the form.
          <button key="begin" type="submit" className="main">
            {upload.error ? 'Go on' : isThere ? 'Upload a new version' : 'Upload'}
          </button>
        ) : (
          <button key="stop" type="button" onClick={upload.stop}>
            Stop
          </button>
        )}
      </div>
      {upload.progress && <Going progress={upload.progress} files={files.length} />}
      <Problem error={upload.error} />
      {upload.error !== null && <p className="quiet">What arrived is kept: going on sends only the rest.</p>}
    </form>
  )
}

function NameField({
  known,
  name,
  onName,
}: Pick<UploadFormProps, 'name' | 'onName'> & { known: readonly string[] }) {
  return (
    <label>
      Dataset, new or one that there is
      <input
        value={name}
        required
        pattern={namePattern}
        title="Small letters, digits, dot, dash and underscore"
        list="datasets"
        onChange={({ target }) => onName(target.value)}
      />
      <datalist id="datasets">
        {known.map((one) => (
          <option key={one} value={one} />
        ))}
      </datalist>
    </label>
  )
}

function Going({ progress, files }: { progress: UploadProgress; files: number }) {
  const { totalBytes, hashedBytes, sentBytes, filesDone } = progress
  return (
    <p role="status">
      <progress aria-label="Upload" value={hashedBytes + 4 * sentBytes} max={Math.max(1, 5 * totalBytes)} />{' '}
      {bytesText(sentBytes)} of {bytesText(totalBytes)} sent, {filesDone} of {files} files.{' '}
      <span className="quiet">It ends when you leave this page.</span>
    </p>
  )
}

/** One upload as it goes. It ends with the page, and goes on where it was when begun again. */
function useUpload(onDone: (dataset: string) => void) {
  const [progress, setProgress] = useState<UploadProgress>()
  const running = useRef<AbortController>(undefined)
  useEffect(() => () => running.current?.abort(), [])
  const upload = useDeed(
    async (of: UploadOf) => {
      const stop = new AbortController()
      running.current = stop
      try {
        return await uploadVersion(of, stop.signal, (now) => {
          if (!stop.signal.aborted) setProgress(now)
        })
      } catch (error) {
        if (stop.signal.aborted) throw new UserError('It was stopped.', { cause: error })
        // Whatever else a browser refuses, such as a file that is gone.
        throw error instanceof Error ? error : new UserError(messageOf(error), { cause: error })
      } finally {
        setProgress(undefined)
      }
    },
    ['datasets.'],
    ({ name }) => onDone(name),
  )
  return { progress, error: upload.error, begin: upload.mutate, stop: () => running.current?.abort() }
}
