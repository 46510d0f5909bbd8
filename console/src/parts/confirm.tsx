import { AlertDialog } from '@base-ui/react/alert-dialog'
import type { ReactNode } from 'react'

interface ConfirmProps {
  /** On the button that opens it, and on the one that does it. */
  readonly verb: string
  readonly title: string
  readonly children: ReactNode
  readonly isBusy?: boolean
  onConfirm(): void
}

/** A button for what cannot be taken back: asks first. */
export function Confirm({ verb, title, children, isBusy = false, onConfirm }: ConfirmProps) {
  return (
    <AlertDialog.Root>
      <AlertDialog.Trigger className="danger" disabled={isBusy}>
        {verb}
      </AlertDialog.Trigger>
      <AlertDialog.Portal>
        <AlertDialog.Backdrop className="backdrop" />
        <AlertDialog.Popup className="dialog">
          <AlertDialog.Title>{title}</AlertDialog.Title>
          <AlertDialog.Description render={<div />}>{children}</AlertDialog.Description>
          <div className="buttons">
            <AlertDialog.Close>Cancel</AlertDialog.Close>
            <AlertDialog.Close className="danger" onClick={onConfirm}>
              {verb}
            </AlertDialog.Close>
          </div>
        </AlertDialog.Popup>
      </AlertDialog.Portal>
    </AlertDialog.Root>
  )
}
