//! Where an order is.

/// An order's status. The API writes it in two ways, and takes both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Searching,
    AwaitingAcceptance,
    Assigned,
    PickedUp,
    InTransit,
    Delivered,
    Cancelled,
}

impl Status {
    /// All of them, in the order of a delivery.
    pub(super) const ALL: [Status; 7] = [
        Status::Searching,
        Status::AwaitingAcceptance,
        Status::Assigned,
        Status::PickedUp,
        Status::InTransit,
        Status::Delivered,
        Status::Cancelled,
    ];

    /// As `create-order` says it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Searching => "searching",
            Status::AwaitingAcceptance => "awaiting_acceptance",
            Status::Assigned => "assigned",
            Status::PickedUp => "picked_up",
            Status::InTransit => "in_transit",
            Status::Delivered => "delivered",
            Status::Cancelled => "cancelled",
        }
    }

    /// As `track` says it.
    pub(super) fn readable(self) -> &'static str {
        match self {
            Status::Searching => "Searching",
            Status::AwaitingAcceptance => "Awaiting Acceptance",
            Status::Assigned => "Assigned",
            Status::PickedUp => "Picked Up",
            Status::InTransit => "In Transit",
            Status::Delivered => "Delivered",
            Status::Cancelled => "Cancelled",
        }
    }

    /// The status of either way of writing it.
    pub(super) fn of(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| text == status.name() || text == status.readable())
    }
}
